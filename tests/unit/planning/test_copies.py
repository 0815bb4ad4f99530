"""Copies of points: what people are told of them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.coordinator.planning.copies import CopyMark, copies, where
from holdfast.coordinator.planning.observed import Scan, Volume
from unit.planning.made import NOON, VMID, dataset

POINT = "1-1"


def _copy(name: str, disk: str, *, kind: str = "volume", mounted: bool = True, device: str | None = None) -> Volume:
    until = NOON + timedelta(hours=1) if mounted else None
    mark = CopyMark(vmid=VMID, name="look", point=POINT, disk=disk, until=until)
    marks = {"copy": mark.model_dump_json(exclude_none=True)}
    made = Volume(name, kind, 8, 1, 0, 0, 0, False, None, None, marks)
    return replace(made, origin=f"{dataset('scsi0')}@holdfast-1-1", device=device)


def _places(*volumes: Volume) -> dict[str, str]:
    scan = Scan(NOON, {v.dataset: v for v in volumes}, {})
    return where(copies(scan)[VMID, "look"], scan.volumes)


@pytest.mark.parametrize(
    ("copy", "place"),
    [
        (_copy("tank/holdfast/clones/a", "scsi0"), "/dev/zvol/tank/holdfast/clones/a"),
        (_copy("tank/holdfast/clones/a", "mp0", kind="filesystem"), "/run/holdfast/mounts/101-look/mp0"),
        (_copy("tank/holdfast/clones/a", "scsi0", mounted=False), "tank/holdfast/clones/a"),
        (_copy("rbd:ceph/holdfast/clones/a", "scsi0", device="/dev/rbd3"), "/dev/rbd3"),
        (_copy("rbd:ceph/holdfast/clones/a", "rootfs", device="/dev/rbd3"), "/run/holdfast/mounts/101-look/rootfs"),
        (_copy("rbd:ceph/holdfast/clones/a", "rootfs"), "ceph:holdfast.clones.a (mount it again)"),
        (_copy("rbd:ceph/holdfast/clones/a", "rootfs", mounted=False), "ceph:holdfast.clones.a"),
    ],
)
def test_people_are_told_what_they_can_use(copy: Volume, place: str) -> None:
    assert list(_places(copy).values()) == [place]
