"""What lies on a node's storage from work of Holdfast and is of no use to anybody any more, each with the proof. Pure.

Guards invariant 3: only what is proven to be a half-received stream of ours is removed without being asked for; what
has data in it is shown with the command that removes it, and stays. A name proves nothing: a snapshot that bears one
of ours and that no record lists is somebody's as well as ours.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Scan, Volume, is_rbd

_ASIDE = re.compile(r"[^/]+/holdfast(?:/aside/|\.aside\.)([0-9]+)-e[0-9]+-")


@dataclass(frozen=True, slots=True)
class Abandoned:
    """One thing that is left over."""

    kind: str
    """`half-received`, `replica`, `snapshot`, `aside`."""
    name: str
    vmid: int
    used: int
    """Bytes that go with it."""
    proof: str
    """Why nobody needs it."""
    remove: str
    """The command that removes it; empty: the agent does (`by_itself`), once it has been so for a while."""

    @property
    def by_itself(self) -> bool:
        """Whether the agent removes it without being asked."""
        return not self.remove


def abandoned(
    me: str, protections: Mapping[int, Protection], owners: Mapping[int, Owner], scan: Scan
) -> list[Abandoned]:
    """All of a node, by name. What it owns, and what it is a target of, is not abandoned, whatever state it is in."""
    found: list[Abandoned] = []
    recorded = {m.guid for anchor in scan.anchors.values() for p in anchor.points for m in p.members}
    for volume in sorted(scan.volumes.values(), key=lambda v: v.dataset):
        aside = _ASIDE.match(volume.dataset)
        if aside:
            found.append(_aside(volume, int(aside[1])))
        elif vmid := volume.replica_of:
            why = _no_target(me, vmid, protections.get(vmid), owners.get(vmid))
            if why and volume.half_received:
                found.append(_half_received(volume, vmid, why))
            elif why:
                found.append(_replica(volume, vmid, why))
            found += _unrecorded(volume, vmid, scan, recorded)
    for vmid, protection in protections.items():
        for volume in _own(me, protection, owners.get(vmid), scan):
            found += _unrecorded(volume, vmid, scan, recorded)
    return found


def _own(me: str, protection: Protection, owner: Owner | None, scan: Scan) -> Iterator[Volume]:
    if owner is not None and owner.node == me:
        for disk in protection.disks:
            volume = scan.volumes.get(disk.dataset)
            if volume is not None and volume.replica_of is None:
                yield volume


def _no_target(me: str, vmid: int, protection: Protection | None, owner: Owner | None) -> str | None:
    """Why this node has no business with a replica; None: it has, or nobody knows."""
    if owner is not None and owner.node == me:
        return None
    if protection is None:
        return f"guest {vmid} is not in desired state any more"
    if any(a.node == me for a in protection.assignments):
        return None
    return f"no policy replicates guest {vmid} to {me} any more"


def _half_received(volume: Volume, vmid: int, why: str) -> Abandoned:
    said = f"it bears our mark, has no snapshot, and {why}"
    return Abandoned("half-received", volume.dataset, vmid, volume.used, said, "")


def _replica(volume: Volume, vmid: int, why: str) -> Abandoned:
    newest = volume.newest
    until = f"; its newest snapshot is {newest.name}" if newest else ""
    return Abandoned("replica", volume.dataset, vmid, volume.used, why + until, _destroy(volume.dataset))


def _aside(volume: Volume, vmid: int) -> Abandoned:
    origin = f"; it keeps {volume.origin}" if volume.origin else ""
    said = f"it was set aside, and Holdfast uses it for nothing{origin}"
    return Abandoned("aside", volume.dataset, vmid, volume.used, said, _destroy(volume.dataset))


def _unrecorded(volume: Volume, vmid: int, scan: Scan, recorded: Collection[int]) -> Iterator[Abandoned]:
    """Snapshots with a name of ours that no record lists, though a later point is complete."""
    complete = scan.complete_points(vmid)
    for snapshot in volume.snapshots[:-1]:  # the newest is what the next stream builds on
        point = PointId.of_snapshot(snapshot.name)
        if point is None or snapshot.guid in recorded or not complete or complete[-1].id <= point:
            continue
        said = f"no record lists it, and point {complete[-1].id}, which is later, is complete"
        name = f"{volume.dataset}@{snapshot.name}"
        yield Abandoned("snapshot", name, vmid, snapshot.used, said, _destroy(name, held=snapshot.holds > 0))


def _destroy(name: str, held: bool = False) -> str:
    if is_rbd(name):
        image = name.partition("/")[2]
        if "@" in name:
            return f"rbd snap unprotect {image} && rbd snap rm {image}" if held else f"rbd snap rm {image}"
        return f"rbd snap purge {image} && rbd rm {image}"
    if "@" in name:
        return f"zfs release holdfast {name} && zfs destroy {name}" if held else f"zfs destroy {name}"
    return f"zfs destroy -r {name}"
