"""What is recorded of recovery points on a node's storage, and what is there of it, as the checkers themselves see it.

Not by way of the code that is being checked: that a point is complete is worked out here once more.
"""

from collections.abc import Iterable

from holdfast.coordinator.model.point import PointId, RecoveryPoint

from .datasets import Dataset
from .zfs import Storage


def records_of(storage: Storage, vmid: int) -> dict[PointId, list[RecoveryPoint]]:
    """What is recorded of each point, on one pool or several."""
    found: dict[PointId, list[RecoveryPoint]] = {}
    for (_, owner), anchor in storage.marked().items():
        if owner == vmid:
            for id, point in anchor.points.items():
                found.setdefault(id, []).append(point)
    return found


def whole(storage: Storage, parts: list[RecoveryPoint]) -> RecoveryPoint | None:
    """A point as its records have it together, if all of it is there."""
    point, *others = parts
    members = {m.disk: m for p in parts for m in p.members}
    for member in members.values():
        dataset = storage.dataset(member.dataset)
        if dataset is None or dataset.by_guid(member.guid) is None:
            return None
    if members.keys() != set(point.disks):
        return None
    return point.model_copy(update={"members": tuple(members.values())}) if others else point


def complete(storage: Storage, vmid: int) -> list[RecoveryPoint]:
    """The complete points of a guest on a node, oldest first."""
    found = records_of(storage, vmid)
    return [point for id in sorted(found) if (point := whole(storage, found[id]))]


def counters(storage: Storage, point: RecoveryPoint, slots: Iterable[str]) -> dict[str, int]:
    """Slot → counter, in the order in which a guest writes its disks; what the point does not have is left out."""
    found = {}
    for slot in slots:
        member = point.member(slot)
        snap = storage.there(member.dataset).by_guid(member.guid) if member else None
        if snap is not None:
            found[slot] = snap.image.counter
    return found


def guest_of(dataset: Dataset) -> int:
    """The VMID in a dataset's name; 0: there is none."""
    parts = dataset.name.rpartition("/")[2].split("-")
    return next((int(p) for p in parts if p.isdecimal() and len(p) == 3), 0)
