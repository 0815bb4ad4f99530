"""A container whose volumes lie on RBD, mapped by the kernel's client as Proxmox does, and on ZFS: one instant of all.

On real parts, Ceph beside the lab.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.ceph.cluster import CephCluster

from .ceph import KEYS, POOLS, add_storages, image_of
from .cluster import Cluster
from .guest_writer import start_writer
from .host import Host
from .mixture import check_counters, counters
from .network import GATEWAY
from .recorder import Recorder
from .test_pausing import pauses

IMAGES = {"rootfs": "vm-101-disk-0", "mp1": "vm-101-disk-2"}
ON_ZFS = {"mp0": "subvol-101-disk-1"}
SLOTS = ("rootfs", "mp0", "mp1")
"""In the order in which the guest writes."""
RBD = f"rbd --conf /dev/null --id admin --keyring {KEYS}/ceph.keyring --mon_host {GATEWAY}"
CGROUP = "/sys/fs/cgroup/lxc/101"


def _folder(slot: str) -> str:
    return f"/tank/{ON_ZFS[slot]}" if slot in ON_ZFS else f"/var/lib/lxc/101/{slot}"


@pytest.fixture
def container(ceph: CephCluster, cluster: Cluster, hosts: list[Host], recorder: Recorder) -> Iterator[Host]:
    """The host of container 101, whose process writes to its three volumes in turn."""
    source = hosts[0]
    add_storages(ceph, cluster, hosts, krbd=True)
    source.run(f"modprobe rbd; zfs create -o refquota=64M tank/{ON_ZFS['mp0']}; mkdir -p {CGROUP}")
    for slot, image in IMAGES.items():
        ceph.rbd("create", "--size", "64M", "--pool", POOLS["ceph"], "--image", image)
        device = source.run(f"{RBD} map {POOLS['ceph']}/{image}").strip()
        source.run(f"set -e; mkfs.ext4 -q {device}; mkdir -p {_folder(slot)}; mount {device} {_folder(slot)}")
    volumes = {slot: f"ceph:{image}" for slot, image in IMAGES.items()}
    volumes |= {slot: f"local-zfs:{name}" for slot, name in ON_ZFS.items()}
    disks = {slot: {"volume": volumes[slot]} for slot in SLOTS}
    try:
        cluster.apply({"kind": "Guest", "name": 101, "spec": {"type": "lxc", "node": source.name, "disks": disks}})
        start_writer(source, "101", list(map(_folder, SLOTS)), pause=0.01, payload=4096)
        recorder.wait_for("101", 1)
        source.run(f"pgrep -f '[w]riter.py' >{CGROUP}/cgroup.procs")
        yield source
    finally:
        cluster.stop()
        source.run(f"echo 0 >{CGROUP}/cgroup.freeze; pkill -KILL -f '[w]riter.py'; sleep 1", check=False)
        for slot, image in IMAGES.items():
            source.run(f"umount {_folder(slot)}; {RBD} unmap {POOLS['ceph']}/{image}", check=False)


def _counters(target: Host, ceph: CephCluster, point: dict[str, Any]) -> list[int]:
    """Of all volumes of a point, in the order in which they are written."""
    members = {m["disk"]: (m["dataset"], m["snapshot"]) for m in point["members"]}
    values = dict(zip(ON_ZFS, counters(target, ["@".join(members[slot]) for slot in ON_ZFS]), strict=True))
    for slot in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            values[slot] = _counter(ceph, *image_of(*members[slot]), Path(folder) / "image")
    return [values[slot] for slot in SLOTS]


def _counter(ceph: CephCluster, pool: str, image: str, snapshot: str, file: Path) -> int:
    """What a start of the guest would find: what ext4's journal has, too."""
    ceph.rbd("export", "--no-progress", f"{pool}/{image}@{snapshot}", str(file))
    subprocess.run(["e2fsck", "-E", "journal_only", "-p", str(file)], capture_output=True, check=True)
    cat = subprocess.run(["debugfs", "-R", "cat /counter", str(file)], capture_output=True, check=True)
    return int(cat.stdout[:20].strip(b"\0") or 0)


def _newest(cluster: Cluster, target: Host, after: int) -> dict[str, Any]:
    """The first point with a higher number that has reached the target."""

    def found() -> list[dict[str, Any]]:
        return [p for p in cluster.records(target, 101) if p["sequence"] > after]

    cluster.wait_for(lambda: bool(found()), 400, f"a point after number {after} is on the replica")
    return found()[0]


def test_points_over_krbd_and_zfs_are_of_one_instant_on_the_replica(
    ceph: CephCluster, cluster: Cluster, hosts: list[Host], container: Host
) -> None:
    target = hosts[1]
    cluster.protect("10s", target, storages={"ceph": "ceph-replica"}, keep={"last": 9})
    first = _newest(cluster, target, 0)
    second = _newest(cluster, target, first["sequence"])
    found = [_counters(target, ceph, point) for point in (first, second)]
    print(f"\n{found}; paused for {', '.join(f'{seconds * 1000:.0f} ms' for _, seconds, _ in pauses(container))}")
    assert {first["consistency"], second["consistency"]} == {"paused"}
    for values in found:
        check_counters(values, "a point on the replica")
    assert found[0][0] < found[1][0], "the guest goes on in between"

    # one that is mapped, and not mounted where anybody looks, is not taken for synced
    container.run(f"set -e; pkill -KILL -f '[w]riter.py'; sleep 1; umount {_folder('mp1')}")
    start_writer(container, "101", [_folder("rootfs"), _folder("mp0")], pause=0.01, payload=4096)
    container.run(f"pgrep -f '[w]riter.py' >{CGROUP}/cgroup.procs")
    last = cluster.records(target, 101)[-1]["sequence"]
    cluster.wait_for(lambda: "rbd:ceph/vm-101-disk-2 is not mounted" in str(cluster.status()), 240, "that is told")
    assert _newest(cluster, target, last + 1)["consistency"] == "none"
