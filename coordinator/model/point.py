"""A recovery point: what a guest can be started from. Guards invariant 2, no mixture.

One snapshot per replicated disk, taken at one instant, plus the guest's definition at that instant and the list of its
members. Whether a point is complete is computed from that list and what the storage holds; it is never a flag.
"""

import re
from collections.abc import Collection
from enum import StrEnum
from functools import cached_property
from typing import Annotated, NamedTuple, Self

from holdfast.coordinator.model.names import Dataset, DiskSlot, Size, VolumeId
from holdfast.coordinator.model.record import Instant, Record
from holdfast.coordinator.model.request import Note
from holdfast.coordinator.model.snapshot_policy import Prefix, Wish
from pydantic import BeforeValidator, field_validator

_NAME = re.compile(r"holdfast-(?:[a-z][a-z0-9]{0,15}-)?([1-9][0-9]*)-([1-9][0-9]*)\Z")


class PointId(NamedTuple):
    """Orders a guest's points: by owner's epoch, then by sequence within it, never by time (DESIGN §6)."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @property
    def snapshot(self) -> str:
        """The name of the point's snapshots without a prefix: other tools' prune rules leave it alone."""
        return f"holdfast-{self}"

    def snapshot_with(self, prefix: str) -> str:
        """The name with a snapshot policy's prefix."""
        return f"holdfast-{prefix}-{self}" if prefix else self.snapshot

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `EPOCH-SEQUENCE`; ValueError otherwise."""
        point = cls.of_snapshot(f"holdfast-{text}")
        if point is None:
            raise ValueError(f"not a recovery point: {text!r} (write EPOCH-SEQUENCE, e.g. 1-42)")
        return point

    @classmethod
    def of_snapshot(cls, name: str) -> Self | None:
        """The point that a snapshot's short name belongs to; None if the name is not ours."""
        match = _NAME.match(name)
        return cls(int(match[1]), int(match[2])) if match else None


class Consistency(StrEnum):
    """How a point's snapshots relate in time."""

    ATOMIC = "atomic"
    """One transaction group of one pool holds them all."""
    PAUSED = "paused"
    """Several pools; the guest did not write between the first and the last."""
    FROZEN = "frozen"
    """One instant, however many pools; the guest's file systems were flushed and frozen, or it was off."""
    NONE = "none"
    """Several pools; the guest may have written between the first and the last."""


def _unsigned(guid: object) -> object:
    """ZFS channel programs write GUIDs as signed numbers; everybody else as unsigned ones."""
    return guid % 2**64 if isinstance(guid, int) else guid


class Member(Record):
    """One disk in a point. `snapshot` may bear an older point's name: nothing was written to the disk in between."""

    disk: DiskSlot
    volume: VolumeId
    dataset: Dataset
    snapshot: str
    guid: Annotated[int, BeforeValidator(_unsigned)]
    size: Size

    @field_validator("snapshot")
    @classmethod
    def _ours(cls, name: str) -> str:
        if PointId.of_snapshot(name) is None:
            raise ValueError(f"not a snapshot of Holdfast: {name!r}")
        return name

    @property
    def full_name(self) -> str:
        """`dataset@snapshot` on the node where the record was written."""
        return f"{self.dataset}@{self.snapshot}"


class RecoveryPoint(Record):
    """A point as it is marked on the storage that holds it."""

    epoch: int
    sequence: int
    instant: Instant
    consistency: Consistency
    definition: str
    """Digest of the guest's definition, which is kept beside the points."""
    disks: tuple[DiskSlot, ...]
    """Every slot that the point is to have. A record on one of several pools lists only that pool's members."""
    members: tuple[Member, ...]
    policies: tuple[str, ...] = ()
    """Snapshot policies for which it was taken."""
    late: bool = False
    """Whether it stands for a time of theirs that was missed."""
    prefix: Prefix = ""
    """In the names of its snapshots."""
    asked: Wish = Wish.NONE
    """What was wanted of the guest meanwhile; `consistency` is what was got."""
    request: str | None = None
    """The request by which a person had it taken: it stays until its deletion is asked for."""
    note: Note = ""
    """What that person says of it."""

    @property
    def snapshot(self) -> str:
        """The name of its own snapshots."""
        return self.id.snapshot_with(self.prefix)

    def to_json(self) -> bytes:
        """As it is kept and sent: what is as usual is left out, a property of ZFS holds 8 KiB."""
        return self.model_dump_json(exclude_defaults=True).encode()

    @cached_property
    def id(self) -> PointId:
        """Its place in the order of the guest's points."""
        return PointId(self.epoch, self.sequence)

    def complete(self, guids: Collection[int]) -> bool:
        """Whether there is a member for every disk, and each is among the snapshots (by GUID) that are there."""
        return {m.disk for m in self.members} == set(self.disks) and all(m.guid in guids for m in self.members)

    def joined(self, other: "RecoveryPoint") -> "RecoveryPoint":
        """This record and that of another pool, as one. That the guest stood still is recorded in one of them."""
        members = {m.disk: m for m in (*self.members, *other.members)}
        stood_still = {Consistency.PAUSED, Consistency.FROZEN} & {self.consistency, other.consistency}
        update = {
            "members": tuple(members[disk] for disk in sorted(members)),
            "consistency": next(iter(stood_still), self.consistency),
        }
        return self.model_copy(update=update)

    def member(self, disk: str) -> Member | None:
        """The member of a disk slot."""
        return next((m for m in self.members if m.disk == disk), None)
