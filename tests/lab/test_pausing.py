"""One instant over two pools, on real parts: a container of four volumes that stands still while points are taken."""

import json
import time
from typing import Any

from .cluster import Cluster
from .guest_writer import start_writer
from .host import Host
from .mixture import check_counters, counters
from .recorder import Recorder

VOLUMES = {"rootfs": "tank", "mp0": "fast", "mp1": "tank", "mp2": "fast"}
"""Slot → pool, in the order in which the guest writes."""
BOUND = 10.0
"""Seconds: a host in the lab is 10 to 20 times slower than a real one."""


_FROZEN = {
    **{"kind": "SnapshotPolicy", "name": "frozen"},
    "spec": {"selector": {"all": True}, "every": "10s", "keep": "last=2", "consistency": "frozen"},
}


def _dataset(slot: str) -> str:
    return f"{VOLUMES[slot]}/subvol-101-disk-{list(VOLUMES).index(slot)}"


def _add_container(cluster: Cluster, host: Host) -> None:
    stores = {"tank": "local-zfs", "fast": "fast-zfs"}
    cluster.apply({"kind": "Storage", "name": "fast-zfs", "spec": {"type": "zfspool", "properties": {"pool": "fast"}}})
    host.run("set -e\n" + "\n".join(f"zfs create -o refquota=64M {_dataset(slot)}" for slot in VOLUMES))
    disks = {slot: {"volume": f"{stores[pool]}:{_dataset(slot).partition('/')[2]}"} for slot, pool in VOLUMES.items()}
    cluster.apply({"kind": "Guest", "name": 101, "spec": {"type": "lxc", "node": host.name, "disks": disks}})


def _check(host: Host, point: dict[str, Any]) -> None:
    """The counters of all volumes, read a pool at a time."""
    members = {m["disk"]: f"{m['dataset']}@{m['snapshot']}" for m in point["members"]}
    values = {}
    for pool in ("tank", "fast"):
        slots = [slot for slot, of in VOLUMES.items() if of == pool]
        values |= dict(zip(slots, counters(host, [members[slot] for slot in slots]), strict=True))
    check_counters([values[slot] for slot in VOLUMES], f"point {point['epoch']}-{point['sequence']} on {host.name}")


def test_points_over_two_pools_are_of_one_instant(cluster: Cluster, hosts: list[Host], recorder: Recorder) -> None:
    source, target = hosts
    for host in hosts:
        host.zpool_create("fast", "/dev/vdc")
    try:
        _add_container(cluster, source)
        cluster.agents[source.name].kill()
        cluster.start_agent(source, pause=BOUND)
        source.run("mkdir -p /sys/fs/cgroup/lxc/101")
        start_writer(source, "101", [f"/{_dataset(slot)}" for slot in VOLUMES], pause=0.01, payload=4096)
        recorder.wait_for("101", 1)
        source.run("pgrep -f '[w]riter.py' >/sys/fs/cgroup/lxc/101/cgroup.procs")
        cluster.protect("20s", target, keep={"last": 9})
        cluster.wait_for(lambda: len(cluster.points(target, 101)) >= 3, 400, "there are three points")
        points = cluster.points(target, 101)
        assert {p["consistency"] for p in points} == {"paused"}, points
        cluster.apply(_FROZEN)
        cluster.wait_for(lambda: _frozen(cluster, target) != [], 240, "there is a frozen point")
        for point in [*points, *_frozen(cluster, target)]:
            _check(target, point)
        stood_still = pauses(source)
        print("\n" + "\n".join(f"{how} for {s * 1000:.0f} ms, four volumes on two pools" for how, s, _ in stood_still))
        assert {(how, held) for how, _, held in stood_still} == {("paused", True), ("frozen", True)}
        _stays_frozen_no_longer(cluster, source)
    finally:
        for host in hosts:
            host.run("echo 0 >/sys/fs/cgroup/lxc/101/cgroup.freeze", check=False)
            host.run("pkill -f '[w]riter.py'; zpool destroy -f fast", check=False)


def pauses(host: Host) -> list[tuple[str, float, bool]]:
    """(paused or frozen, seconds, whether it held) of every time that a host's agent had its guest stand still."""
    lines = host.run('grep -hE \'"event":"(paused|frozen)"\' /var/log/holdfast/agent.log').splitlines()
    said = [json.loads(line) for line in lines]
    return [(line["event"], line["seconds"], line["held"]) for line in said]


def _frozen(cluster: Cluster, host: Host) -> list[dict[str, Any]]:
    return [p for p in cluster.points(host, 101) if p["consistency"] == "frozen"]


def _stays_frozen_no_longer(cluster: Cluster, source: Host) -> None:
    """Kill -9 of the agent in the middle of a pause."""
    frozen = "grep -q 'frozen 1' /sys/fs/cgroup/lxc/101/cgroup.events"
    agent = cluster.agents[source.name]
    wait = f"for i in $(seq 3000); do ! {frozen} || break; sleep 0.01; done; {frozen}"
    source.run(f"set -e; {wait}; pkill -9 -f '[h]oldfast-agent'")
    agent.kill()
    deadline = time.monotonic() + BOUND + 5
    while source.result(frozen).status == 0:
        assert time.monotonic() < deadline, "the guest stays frozen"
        time.sleep(0.2)
    assert "101.json" not in source.run("ls /run/holdfast/paused")
