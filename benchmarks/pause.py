"""For how long a guest of four disks on two pools stands still for a point, in a lab of one host. `make bench`.

A container, which freezes by its cgroup and is synced meanwhile; it writes all the time. Beside it, in the same run:
the floor, two `zfs snapshot` by hand at the same time, one a pool. Promise: at most 1 s on real hardware. A host of the
lab is 10 to 20 times slower (docs of the lab), so what is checked here is the ratio to the floor.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from lab.cluster import Cluster  # noqa: E402 - the lab is no installed package
from lab.guest_writer import start_writer  # noqa: E402
from lab.host import Host  # noqa: E402
from lab.lab import Lab  # noqa: E402

PAUSES = 10
BOUND = 1000
"""Milliseconds."""
FLOORS = 6
"""How many times the floor's time a pause may take."""
VOLUMES = {"rootfs": "tank", "mp0": "fast", "mp1": "tank", "mp2": "fast"}


def dataset(slot: str) -> str:
    """Of a slot of guest 101."""
    return f"{VOLUMES[slot]}/subvol-101-disk-{list(VOLUMES).index(slot)}"


def start_guest(cluster: Cluster, host: Host) -> None:
    """A container that writes to its four volumes in turn."""
    host.run("set -e\n" + "\n".join(f"zfs create -o refquota=64M {dataset(slot)}" for slot in VOLUMES))
    stores = {"tank": "local-zfs", "fast": "fast-zfs"}
    disks = {slot: {"volume": f"{stores[p]}:{dataset(slot).partition('/')[2]}"} for slot, p in VOLUMES.items()}
    cluster.apply(
        {"kind": "Storage", "name": "fast-zfs", "spec": {"type": "zfspool", "properties": {"pool": "fast"}}},
        {"kind": "Guest", "name": 101, "spec": {"type": "lxc", "node": host.name, "disks": disks}},
    )
    start_writer(host, "101", [f"/{dataset(slot)}" for slot in VOLUMES], pause=0.05, payload=4096)
    host.run("mkdir -p /sys/fs/cgroup/lxc/101; pgrep -f '[w]riter.py' >/sys/fs/cgroup/lxc/101/cgroup.procs")


def pauses(host: Host) -> list[float]:
    """Milliseconds of each that held."""
    lines = host.run('grep -h \'"event":"paused"\' /var/log/holdfast/agent.log || true').splitlines()
    return [1000 * said["seconds"] for line in lines if (said := json.loads(line))["held"]]


def floor(host: Host, number: int) -> float:
    """Milliseconds that the snapshots alone take, both pools at the same time."""
    tank, fast = (
        " ".join(f"{dataset(slot)}@{number}" for slot in VOLUMES if VOLUMES[slot] == pool) for pool in ("tank", "fast")
    )
    script = f"a=$(date +%s%N); zfs snapshot {tank} & zfs snapshot {fast}; wait; echo $(($(date +%s%N) - a))"
    return int(host.run(script)) / 1e6


def main() -> int:
    """Exit 1 where the promise is not kept."""
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "bench"))
    cluster = Cluster(lab)
    try:
        lab.up(1)
        host = lab.hosts[0]
        host.zpool_create("fast", "/dev/vdc")
        cluster.start()
        cluster.agents[host.name].kill()
        cluster.start_agent(host, pause=10)
        start_guest(cluster, host)
        floors = [floor(host, number) for number in range(5)]
        policy = {"selector": {"all": True}, "every": "5s", "keep": "last=2", "consistency": "paused"}
        cluster.apply({"kind": "SnapshotPolicy", "name": "often", "spec": policy})
        deadline = time.monotonic() + 600
        while len(stood_still := pauses(host)) < PAUSES and time.monotonic() < deadline:
            time.sleep(2)
    finally:
        cluster.stop()
        lab.down()
    by_hand, median = statistics.median(floors), statistics.median(stood_still)
    print(
        f"4 disks on 2 pools, {len(stood_still)} pauses: {median:.0f} ms (longest {max(stood_still):.0f}) in a host"
        f" that is 10 to 20 times slower than those for which {BOUND} ms are promised; {median / by_hand:.1f} x the"
        f" floor ({by_hand:.0f} ms; at most {FLOORS} x)"
    )
    return 0 if len(stood_still) >= PAUSES and median <= FLOORS * by_hand else 1


if __name__ == "__main__":
    sys.exit(main())
