"""`agents/<node>/…`: what each agent says; only that agent writes it."""

from enum import StrEnum

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.record import Instant, Record
from holdfast.coordinator.model.snapshot_policy import Wish


class PointReport(Record):
    """A recovery point that is complete where it is reported."""

    epoch: int
    """Of the owner that took it."""
    sequence: int
    """Numbers the points of an epoch."""
    instant: Instant
    """When it was taken, by the owner's clock."""
    consistency: Consistency
    """How its snapshots relate in time."""
    disks: int
    """How many members it has."""
    size: int
    """Bytes, the sum of the members' sizes."""
    policies: tuple[str, ...] = ()
    """Snapshot policies for which it was taken."""
    late: bool = False
    """Whether it stands for a time of theirs that was missed."""
    asked: Wish = Wish.NONE
    """What its policies wanted of the guest meanwhile."""
    request: str | None = None
    """The request by which a person had it taken."""
    note: str = ""
    """What that person says of it."""
    kept: tuple[str, ...] = ()
    """By which rules it stays there."""
    needed: tuple[str, ...] = ()
    """What replication needs it for there."""

    @property
    def as_asked(self) -> bool:
        """Whether its consistency is at least what was wanted: one instant for all is as good as a pause."""
        match self.asked:
            case Wish.NONE:
                return True
            case Wish.PAUSED:
                return self.consistency is not Consistency.NONE
            case Wish.FROZEN:
                return self.consistency is Consistency.FROZEN


class ReplicaReport(Record):
    """The complete points of a guest on a node that is not its owner, oldest first."""

    points: tuple[PointReport, ...] = ()
    """Complete ones, oldest first."""
    conditions: tuple[Condition, ...] = ()
    """What is wrong there."""


class TargetReport(Record):
    """How the owner sees one target."""

    node: str
    """The target."""
    policy: str
    """The policy that wants it."""
    last: PointReport | None = None
    """The last point that it committed."""
    unchanged_at: Instant | None = None
    """Until this moment nothing had been written since `last`: the replica is as fresh as if made then."""


class MirrorReport(Record):
    """What rbd-mirror, which is not Holdfast's, says of one copy of a disk's image."""

    disk: str
    """The slot."""
    primary: bool
    """Whether the guest's image is the one that is copied; else it is the copy, and nobody can write to it."""
    state: str
    """In rbd-mirror's words: `replaying`, `syncing`, `stopped`, `error`, `unknown` …"""
    up: bool = False
    """Whether the daemon that brings it reports."""
    at: Instant | None = None
    """The instant of which the copy has everything, where that is told: how old it is follows."""
    detail: str = ""
    """What else rbd-mirror says."""


class GuestReport(Record):
    """What the owner's agent says of a guest."""

    epoch: int
    """Under which it was written; of an earlier one it counts for nothing."""
    targets: tuple[TargetReport, ...] = ()
    """Each target in force."""
    points: tuple[PointReport, ...] = ()
    """Complete ones where the guest runs, oldest first."""
    mirrors: tuple[MirrorReport, ...] = ()
    """What rbd-mirror does with its disks besides."""
    conditions: tuple[Condition, ...] = ()
    """What is wrong."""


class RecordProblem(Record):
    """A record of desired state that is not in force as written."""

    key: str
    """Below the cluster's root."""
    condition: Condition
    """What is wrong with it."""
    in_force: str
    """What is in force instead: `previous version`, `nothing` or `without guest N`."""


class RequestState(StrEnum):
    """How far a request is."""

    WAITING = "waiting"
    """Somebody else holds the guest's lock."""
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    """Nothing was changed."""
    FAILED = "failed"
    """Something broke; it is tried again."""


class RequestReport(Record):
    """What became of a request."""

    state: RequestState
    """How far it is."""
    message: str
    """For whoever asked: what was done, or why not and what to do next."""
    at: Instant
    """Since when."""

    @property
    def settled(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.state in (RequestState.DONE, RequestState.REFUSED)


class CopyReport(Record):
    """A copy of a point on a node: a clone of each of its disks."""

    vmid: int
    """Of which guest."""
    name: str
    """What it is called."""
    point: str
    """EPOCH-SEQUENCE."""
    disks: dict[str, str]
    """Slot → where it is: a dataset, a device, or a folder."""
    until: Instant | None = None
    """When it is unmounted; None: it is a clone, which stays."""


class AgentReport(Record):
    """An agent of itself."""

    version: str
    """Of holdfast."""
    started: Instant
    """When it was started."""
    seen: Instant
    """When it last reported."""
    conditions: tuple[Condition, ...] = ()
    """What is wrong with the node."""
    copies: tuple[CopyReport, ...] = ()
    """Copies of points that are there."""
    problems: tuple[RecordProblem, ...] = ()
    """Records that it cannot use as written."""
