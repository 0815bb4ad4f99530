"""Copies of points: what people are told of them, and for how long they keep their point."""

from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.copies import CopyMark, copies, where
from holdfast.coordinator.planning.kept import NO_RULES
from holdfast.coordinator.planning.leftovers import kept_here
from holdfast.coordinator.planning.observed import Scan, Volume
from unit.planning.made import NOON, VMID, Home, dataset

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


@pytest.mark.parametrize(("origin", "stays"), [(f"{dataset('scsi0')}@holdfast-1-1", True), (None, False)])
def test_a_point_stays_for_its_copy_unless_that_is_flat(origin: str | None, stays: bool) -> None:
    home = Home("scsi0")
    home.take()
    copy = replace(_copy("tank/holdfast/clones/a", "scsi0", mounted=False), origin=origin)
    scan = home.scan()
    scan = replace(scan, volumes={**scan.volumes, copy.dataset: copy})
    assert (PointId(1, 1) in kept_here(VMID, scan, NO_RULES)) is stays


def test_of_a_copy_with_several_disks_one_that_is_not_flat_is_enough() -> None:
    flat = replace(_copy("tank/holdfast/clones/a", "scsi0"), origin=None)
    other = _copy("tank/holdfast/clones/b", "scsi1")
    scan = Scan(NOON, {v.dataset: v for v in (flat, other)}, {})
    assert copies(scan)[VMID, "look"].needs_point


def test_only_a_clone_is_flattened() -> None:
    particulars = {"vmid": VMID, "asked": NOON, "node": "alpha", "at": POINT, "name": "look", "flatten": True}
    assert Request.model_validate({"action": "clone", **particulars}).flatten
    with pytest.raises(ValueError, match="mount does not go with flatten"):
        Request.model_validate({"action": "mount", **particulars, "seconds": 60})
