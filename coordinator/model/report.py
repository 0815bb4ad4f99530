"""`agents/<node>/…`: what each agent says; only that agent writes it."""

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.record import Instant, Record


class PointReport(Record):
    """A recovery point that is complete where it is reported."""

    epoch: int
    sequence: int
    instant: Instant
    consistency: Consistency
    disks: int
    size: int
    """Bytes, the sum of the members' sizes."""


class ReplicaReport(Record):
    """The complete points of a guest on a node that is not its owner, oldest first."""

    points: tuple[PointReport, ...] = ()
    conditions: tuple[Condition, ...] = ()


class TargetReport(Record):
    """How the owner sees one target."""

    node: str
    policy: str
    last: PointReport | None = None
    unchanged_at: Instant | None = None
    """Until this moment nothing had been written since `last`: the replica is as fresh as if made then."""


class GuestReport(Record):
    """What the owner's agent says of a guest."""

    epoch: int
    targets: tuple[TargetReport, ...] = ()
    conditions: tuple[Condition, ...] = ()


class RecordProblem(Record):
    """A record of desired state that is not in force as written."""

    key: str
    condition: Condition
    in_force: str
    """What is in force instead: `previous version`, `nothing` or `without guest N`."""


class AgentReport(Record):
    """An agent of itself."""

    version: str
    started: Instant
    seen: Instant
    conditions: tuple[Condition, ...] = ()
    problems: tuple[RecordProblem, ...] = ()
