"""Which recovery points a target keeps, by its policy's rules, and which snapshots go with the others. Pure.

Guards invariant 3: the target decides by itself, so a compromised source cannot prune it; the newest point stays.
"""

from dataclasses import dataclass
from datetime import tzinfo

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning import retention
from holdfast.coordinator.planning.leftovers import Doomed


@dataclass(frozen=True, slots=True)
class Superseded:
    """What goes when a point is committed."""

    destroy: tuple[Doomed, ...]
    forget: tuple[PointId, ...]


def superseded(keep: Keep, held: list[RecoveryPoint], committed: RecoveryPoint, zone: tzinfo) -> Superseded:
    """`held` are all points that are recorded on the target, `committed` the one that is being committed."""
    points = {p.id: p for p in held} | {committed.id: committed}
    newest = max(points)
    items = [(p.instant, str(p.id)) for p in points.values()]
    kept = {PointId.parse(d.name) for d in retention.apply(keep, items, zone) if d.keep} | {newest}
    needed = {m.guid for id in kept for m in points[id].members}
    gone = sorted(id for id in points if id not in kept)
    doomed = {Doomed(m.full_name, m.guid) for id in gone for m in points[id].members if m.guid not in needed}
    return Superseded(tuple(sorted(doomed)), tuple(gone))
