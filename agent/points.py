"""Recovery points as an agent reports them."""

from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.report import PointReport


def point_report(point: RecoveryPoint, kept: tuple[str, ...] = (), needed: tuple[str, ...] = ()) -> PointReport:
    """`kept`: by which rules it stays; `needed`: what replication needs it for."""
    return PointReport(
        epoch=point.epoch,
        sequence=point.sequence,
        instant=point.instant,
        consistency=point.consistency,
        disks=len(point.members),
        size=sum(m.size for m in point.members),
        policies=point.policies,
        late=point.late,
        asked=point.asked,
        request=point.request,
        note=point.note,
        kept=kept,
        needed=needed,
    )
