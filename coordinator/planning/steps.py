"""The steps of a plan: data that can be printed, and that the agent's executor carries out."""

from dataclasses import dataclass
from datetime import datetime

from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.planning.assignment import DiskMap
from holdfast.coordinator.planning.snapshots import Occasion


@dataclass(frozen=True, slots=True)
class TakePoint:
    """Snapshot all disks of a guest at one instant and record the point, in one transaction a pool."""

    vmid: int
    point: PointId
    at: datetime
    disks: tuple[tuple[str, str, str], ...]
    """(slot, volume, dataset)"""
    definition: str
    """Digest."""
    targets: tuple[str, ...]
    occasion: Occasion
    """What it is taken for, besides replication."""
    pause: bool = False
    """Whether the guest is to be paused meanwhile: one instant over several pools takes that."""
    freeze: bool = False
    """Whether its file systems are to be flushed and frozen besides: a policy wants that."""

    @property
    def snapshot(self) -> str:
        """The short name of its snapshots."""
        return self.point.snapshot_with(self.occasion.prefix)

    def __str__(self) -> str:
        datasets = ", ".join(dataset for _, _, dataset in self.disks)
        why = f" for {', '.join(self.occasion.policies)}" if self.occasion.policies else ""
        still = "frozen" if self.freeze else "paused" if self.pause else None
        how = f"while the guest is {still}" if still else "at one instant"
        return f"take point {self.point} of guest {self.vmid}{why}: snapshot {datasets} {how}"


@dataclass(frozen=True, slots=True)
class SendDisk:
    """Bring one disk to a snapshot. `base` is `@snapshot`, `#bookmark`, or None for all of it; a token resumes."""

    vmid: int
    target: str
    disk: DiskMap
    to: str
    to_guid: int
    base: str | None
    resume_token: str | None
    raw: bool

    @property
    def source(self) -> str:
        """`dataset@snapshot` on the owner."""
        return f"{self.disk.dataset}@{self.to}"

    def __str__(self) -> str:
        if self.resume_token:
            how = "the rest of a stream that was cut"
        else:
            how = f"what changed since {self.base}" if self.base else "in full"
        return f"send {self.source} to {self.target}:{self.disk.target_dataset}, {how}"


@dataclass(frozen=True, slots=True)
class AbortPartial:
    """Drop a half-received stream: its snapshot is gone, or the mark is not there. It blocks every other receive."""

    vmid: int
    target: str
    disk: DiskMap
    guid: int
    """Of the snapshot that the stream was bringing."""

    def __str__(self) -> str:
        return f"drop the half-received stream of {self.target}:{self.disk.target_dataset}"


@dataclass(frozen=True, slots=True)
class SetAside:
    """Rename a replica that shares no snapshot with the owner's volume; it is kept and reported."""

    vmid: int
    target: str
    disk: DiskMap

    def __str__(self) -> str:
        return f"set {self.target}:{self.disk.target_dataset} aside: it has no snapshot in common with the owner's"


@dataclass(frozen=True, slots=True)
class ReturnTo:
    """Bring a replica back to an older snapshot, as its source was; what it is now is set aside."""

    vmid: int
    target: str
    disk: DiskMap
    guid: int
    """Of the snapshot, the newest that both have."""

    def __str__(self) -> str:
        return f"bring {self.target}:{self.disk.target_dataset} back, as the guest was rolled back; the rest goes aside"


@dataclass(frozen=True, slots=True)
class Commit:
    """Record the point on the target, checked there: every member present, the epoch not overtaken."""

    vmid: int
    target: str
    point: PointId
    epoch: int

    def __str__(self) -> str:
        return f"commit point {self.point} of guest {self.vmid} on {self.target}"


DiskStep = SendDisk | AbortPartial | SetAside | ReturnTo
Step = TakePoint | DiskStep | Commit
