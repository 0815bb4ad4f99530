"""One instant over two pools, on real parts: a container of four volumes that stands still while points are taken."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .cluster import Cluster
from .guest_writer import start_writer
from .host import Host
from .mixture import check_counters, counters
from .recorder import Recorder

VOLUMES = {"rootfs": "tank", "mp0": "fast", "mp1": "tank", "mp2": "fast"}
"""Slot → pool, in the order in which the guest writes."""
BOUND = 10.0
"""Seconds: a host in the lab is 10 to 20 times slower than a real one."""


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


@pytest.fixture
def container(cluster: Cluster, hosts: list[Host], recorder: Recorder) -> Iterator[Host]:
    """The host of container 101, whose process writes to its four volumes in turn."""
    source = hosts[0]
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
        yield source
    finally:
        for host in hosts:
            host.run("echo 0 >/sys/fs/cgroup/lxc/101/cgroup.freeze", check=False)
            host.run("pkill -f '[w]riter.py'; zpool destroy -f fast", check=False)


def _snapshots(consistency: str, every: str) -> dict[str, Any]:
    wanted = {"selector": {"all": True}, "every": every, "keep": "last=2", "consistency": consistency}
    return {"kind": "SnapshotPolicy", "name": consistency, "spec": wanted}


def test_points_over_two_pools_are_of_one_instant(cluster: Cluster, hosts: list[Host], container: Host) -> None:
    target = hosts[1]
    cluster.protect("20s", target, keep={"last": 9})
    cluster.apply(_snapshots("frozen", every="60s"))

    def got() -> set[str]:
        return {p["consistency"] for p in cluster.points(target, 101)}

    cluster.wait_for(lambda: got() == {"paused", "frozen"}, 400, "there are points of either kind")
    for point in cluster.points(target, 101)[-3:]:
        _check(target, point)
    stood_still = pauses(container)
    print("\n" + "\n".join(f"{how} for {s * 1000:.0f} ms, four volumes on two pools" for how, s, _ in stood_still))
    assert {(how, held) for how, _, held in stood_still} == {("paused", True), ("frozen", True)}


def test_a_guest_goes_on_when_the_agent_is_killed_in_the_middle_of_a_pause(cluster: Cluster, container: Host) -> None:
    cluster.apply(_snapshots("paused", every="5s"))
    frozen = "grep -q 'frozen 1' /sys/fs/cgroup/lxc/101/cgroup.events"
    agent = cluster.agents[container.name]
    wait = f"until {frozen}; do sleep 0.02; done"
    container.run(f"set -e; {wait}; kill -9 {agent.pid}", timeout=240)
    agent.kill()
    deadline = time.monotonic() + BOUND + 5
    while container.result(f"{frozen} || ls /run/holdfast/paused/101.json").status == 0:
        assert time.monotonic() < deadline, "the guest stays frozen"
        time.sleep(0.2)


def pauses(host: Host) -> list[tuple[str, float, bool]]:
    """(paused or frozen, seconds, whether it held) of every time that a host's agent had its guest stand still."""
    lines = host.run('grep -hE \'"event":"(paused|frozen)"\' /var/log/holdfast/agent.log').splitlines()
    said = [json.loads(line) for line in lines]
    return [(line["event"], line["seconds"], line["held"]) for line in said]
