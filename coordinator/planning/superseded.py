"""Which recovery points a target keeps, by its policy's rules, and which snapshots go with the others. Pure.

Guards invariants 3 and 4: the target decides by itself, so a compromised source cannot prune it; the newest point
stays, and so does the newest of each disk that the guest has: what comes next of that disk is received on top of it.
"""

from dataclasses import dataclass
from datetime import tzinfo

from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning import retention
from holdfast.coordinator.planning.admission import allowed_datasets
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.leftovers import Doomed, unused_definitions
from holdfast.coordinator.planning.observed import Scan


@dataclass(frozen=True, slots=True)
class Superseded:
    """What goes when a point is committed."""

    destroy: tuple[Doomed, ...]
    forget: tuple[PointId, ...]
    definitions: tuple[tuple[str, str], ...]
    """(digest, text)"""
    aside: tuple[str, ...]
    """Replicas of disks that the guest has no more, once no point that is kept has them: renamed, never destroyed."""


NOTHING = Superseded((), (), (), ())
"""Where no policy is known, nothing goes."""


def superseded(assignment: Assignment, scan: Scan, committed: RecoveryPoint, zone: tzinfo) -> Superseded:
    """What goes of a guest on this target when `committed` is recorded there."""
    vmid = assignment.vmid
    points = scan.recorded_points(vmid) | {committed.id: committed}
    stay = {max(points), committed.id}  # not the same where later points lost their members, as after a change of owner
    stay |= _bases(assignment, scan, committed)
    items = [(p.instant, str(p.id)) for p in points.values()]
    kept = {PointId.parse(d.name) for d in retention.apply(assignment.keep, items, zone) if d.keep} | stay
    needed = {m.guid for id in kept for m in points[id].members}
    gone = sorted(id for id in points if id not in kept)
    doomed = {Doomed(m.full_name, m.guid) for id in gone for m in points[id].members if m.guid not in needed}
    needed_datasets = {m.dataset for id in kept for m in points[id].members} | allowed_datasets(assignment)
    aside = sorted(
        name
        for name, volume in scan.volumes.items()
        if volume.marks.get("replica", "").startswith(f"{vmid}/")
        and name not in needed_datasets
        and name.split("/")[1:3] != ["holdfast", "aside"]
    )
    definitions = unused_definitions(scan, vmid, [points[id] for id in kept])
    return Superseded(tuple(sorted(doomed)), tuple(gone), definitions, tuple(aside))


def _bases(assignment: Assignment, scan: Scan, committed: RecoveryPoint) -> set[PointId]:
    """The newest points of disks that the guest has and this point lacks: they were pulled out, and have come back."""
    found = set()
    recorded = scan.recorded_points(assignment.vmid)
    for dataset in allowed_datasets(assignment) - {m.dataset for m in committed.members}:
        if volume := scan.volumes.get(dataset):
            having = [
                p.id for p in recorded.values() for m in p.members if m.dataset == dataset and volume.snapshot(m.guid)
            ]
            found |= {max(having)} if having else set()
    return found
