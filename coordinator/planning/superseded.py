"""Which recovery points a target keeps, by its policy's rules, and which snapshots go with the others. Pure.

Guards invariants 3 and 4: the target decides by itself, so a compromised source cannot prune it; the newest point
stays, and so does the newest of each disk whose replica is in place: what comes next of it is received on top of that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.admission import allowed_datasets
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.kept import Rules, kept
from holdfast.coordinator.planning.leftovers import Doomed, copied, unused_definitions
from holdfast.coordinator.planning.observed import Scan, is_aside


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


def superseded(assignment: Assignment, scan: Scan, committed: RecoveryPoint, rules: Rules) -> Superseded:
    """What goes of a guest on this target when `committed` is recorded there.

    A disk that this point is the first to lack may be back in a minute: its replica stays in place until the next.
    """
    points = scan.recorded_points(assignment.vmid) | {committed.id: committed}
    stay = {max(points), committed.id}  # not the same where later points lost their members, as after a change of owner
    whole = {p.id for p in scan.complete_points(assignment.vmid)} | {committed.id}
    stay |= kept(points.values(), rules, whole).keys() | copied(assignment.vmid, points.values(), scan)
    before = max((id for id in points if id < committed.id), default=committed.id)
    in_place = {m.dataset for id in stay | {before} for m in points[id].members} | allowed_datasets(assignment)
    replicas = _replicas(assignment.vmid, scan)
    stay |= _bases(points, scan, replicas & in_place - {m.dataset for m in committed.members})
    needed = {m.guid for id in stay for m in points[id].members}
    gone = sorted(id for id in points if id not in stay)
    doomed = {Doomed(m.full_name, m.guid) for id in gone for m in points[id].members if m.guid not in needed}
    definitions = unused_definitions(scan, assignment.vmid, [points[id] for id in sorted(stay)])
    return Superseded(tuple(sorted(doomed)), tuple(gone), definitions, tuple(sorted(replicas - in_place)))


def _replicas(vmid: int, scan: Scan) -> set[str]:
    """The guest's replicas that are in their place."""
    return {name for name, volume in scan.volumes.items() if volume.replica_of == vmid and not is_aside(name)}


def _bases(points: Mapping[PointId, RecoveryPoint], scan: Scan, left_out: set[str]) -> set[PointId]:
    """The newest points of disks that are in place and that the committed point lacks: what comes next needs them."""
    found = set()
    for volume in (scan.volumes[dataset] for dataset in left_out):
        having = [
            p.id for p in points.values() for m in p.members if m.dataset == volume.dataset and volume.snapshot(m.guid)
        ]
        found |= {max(having)} if having else set()
    return found
