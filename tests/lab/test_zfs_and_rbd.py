"""One instant over ZFS and Ceph, on real parts: a VM with two disks on each, whose points reach another node.

Ceph runs beside etcd, in the lab's network. The VM is a stand-in that opens its disks and obeys its monitor as QEMU
does.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from integration.ceph.cluster import CephCluster
from integration.ceph.site import by_hand

from .ceph import KEYS, POOLS, add_storages, image_of
from .cluster import Cluster
from .guest_writer import start_writer
from .host import Host
from .mixture import MixtureFound, check_counters, counters
from .network import GATEWAY
from .recorder import Recorder
from .test_pausing import pauses

DISKS = {
    "scsi0": "local-zfs:vm-101-disk-0",
    "scsi1": "ceph:vm-101-disk-1",
    "scsi2": "local-zfs:vm-101-disk-2",
    "scsi3": "ceph:vm-101-disk-3",
}
"""In the order in which the guest writes."""


@pytest.fixture
def vm(ceph: CephCluster, cluster: Cluster, hosts: list[Host]) -> Iterator[Host]:
    """The host of VM 101, with its empty disks; agents that reach Ceph."""
    add_storages(ceph, cluster, hosts, krbd=False)
    for storeid, _, name in (volume.partition(":") for volume in DISKS.values()):
        if storeid in POOLS:
            ceph.rbd("create", "--size", "64M", "--pool", POOLS[storeid], "--image", name)
        else:
            hosts[0].run(f"zfs create -s -V 64M -o volblocksize=16k tank/{name}")
    disks = {slot: {"volume": volume} for slot, volume in DISKS.items()}
    cluster.apply({"kind": "Guest", "name": 101, "spec": {"type": "qemu", "node": hosts[0].name, "disks": disks}})
    try:
        yield hosts[0]
    finally:
        cluster.stop()
        for host in hosts:
            host.run("pkill -KILL -f '[v]m_writer.py'; rm -f /run/qemu-server/101.qmp", check=False)


def _start(host: Host, recorder: Recorder, *, deaf: bool = False) -> None:
    """Switch VM 101 on."""
    host.run("mkdir -p /run/qemu-server")
    targets = [f"/dev/zvol/tank/{n}" if s not in POOLS else f"rbd:{POOLS[s]}/{n}" for s, n in _volumes()]
    options = f"--qmp /run/qemu-server/101.qmp --ceph {GATEWAY} --keyring {KEYS}/ceph.keyring"
    program = f"python3 /run/lab/vm_writer.py {options} {'--deaf' if deaf else ''}"
    start_writer(host, "101", targets, pause=0.02, payload=4096, program=program)
    recorder.wait_for("101", 1)


def _volumes() -> list[tuple[str, str]]:
    return [(volume.partition(":")[0], volume.partition(":")[2]) for volume in DISKS.values()]


def _points_on(target: Host, cluster: Cluster) -> list[dict[str, Any]]:
    """Two points that have reached the target."""
    cluster.protect("10s", target, storages={"ceph": "ceph-replica"}, keep={"last": 9})
    cluster.wait_for(lambda: len(cluster.records(target, 101)) >= 2, 400, "two points are on the replica")
    points = cluster.records(target, 101)[:2]
    assert {point["consistency"] for point in points} == {"paused"}
    return points


def _counters(host: Host, ceph: CephCluster, point: dict[str, Any]) -> list[int]:
    """Of all disks of a point, in the order in which they are written."""
    members = {m["disk"]: (m["dataset"], m["snapshot"]) for m in point["members"]}
    zvols = {slot: f"{dataset}@{name}" for slot, (dataset, name) in members.items() if not dataset.startswith("rbd:")}
    values = dict(zip(zvols, counters(host, list(zvols.values())), strict=True))
    for slot in members.keys() - zvols.keys():
        pool, image, snapshot = image_of(*members[slot])
        with by_hand((ceph, pool, "")) as hand:
            values[slot] = int(hand.read(image, snapshot, 20).strip(b"\0") or 0)
    return [values[slot] for slot in DISKS]


def _check(found: list[list[int]]) -> None:
    for number, values in enumerate(found, start=1):
        check_counters(values, f"point {number} on the replica")


def test_points_over_zfs_and_rbd_are_of_one_instant_on_the_replica(
    ceph: CephCluster, cluster: Cluster, hosts: list[Host], vm: Host, recorder: Recorder
) -> None:
    _start(vm, recorder)
    points = _points_on(hosts[1], cluster)
    found = [_counters(hosts[1], ceph, point) for point in points]
    print(f"\n{found}; paused for {', '.join(f'{seconds * 1000:.0f} ms' for _, seconds, _ in pauses(vm))}")
    _check(found)
    assert found[0][0] < found[1][0], "the guest goes on in between"


def test_the_check_turns_red_where_the_guest_only_says_that_it_stands_still(
    ceph: CephCluster, cluster: Cluster, hosts: list[Host], vm: Host, recorder: Recorder
) -> None:
    _start(vm, recorder, deaf=True)
    points = _points_on(hosts[1], cluster)
    found = [_counters(hosts[1], ceph, point) for point in points]
    print(f"\n{found}")
    with pytest.raises(MixtureFound):
        _check(found)
