"""`desired/requests/<id>`: something to be done once. It is pruned when old."""

from typing import Annotated, Literal, Self

from holdfast.coordinator.model.names import NodeName, Vmid
from holdfast.coordinator.model.record import Instant, Record
from pydantic import AfterValidator, Field, StringConstraints, model_validator


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a note is one line, without control characters")
    return text


Note = Annotated[str, StringConstraints(max_length=200), AfterValidator(_one_line)]
"""Words for people: one line, without control characters."""


class PointName(Record):
    """One recovery point, without doubt: its number, and its instant, since a number may be given twice."""

    epoch: int
    """Of the owner that took it."""
    sequence: int
    """Numbers the points of an epoch."""
    instant: Instant
    """When it was taken, to the millisecond."""


CopyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
"""What people call a copy of a point: letters, digits and dashes."""
PointNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,15}-[1-9][0-9]{0,15}$")]
"""EPOCH-SEQUENCE."""
MAX_MOUNTED = 7 * 86400
"""Seconds. A mounted point keeps its snapshots."""


class Request(Record):
    """Something to be done once.

    `replicate`: take a new point of the guest now, whatever its schedule says, and bring it to every target.
    `snapshot`: take a point that bears this request's name, and keep it until its deletion is asked for.
    `delete`: let go of a point, on every node, as soon as replication does not need it.
    `rollback`: bring the guest, which is off, back to a point; what it was before is kept.
    `clone`: make a copy of a point, which nothing else uses. `mount`: the same to read files from, for a while.
    `unclone`: destroy a copy, mounted or not.
    """

    action: Literal["replicate", "snapshot", "delete", "rollback", "clone", "mount", "unclone"]
    """What is to be done."""
    vmid: Vmid
    """To which guest."""
    asked: Instant
    """When; a point that is newer fulfils `replicate`."""
    by: str = ""
    """Who asked."""
    note: Note = ""
    """What people are to read beside the snapshot."""
    point: PointName | None = None
    """What is to be deleted."""
    node: NodeName | None = None
    """Which node is to do it; the others are seen to by the guest's owner."""
    at: PointNumber | None = None
    """The point, as EPOCH-SEQUENCE."""
    name: CopyName | None = None
    """What the copy is called."""
    seconds: Annotated[int, Field(ge=1, le=MAX_MOUNTED)] | None = None
    """After how many a mounted point is let go of."""
    flatten: bool = False
    """Whether a clone is not to need its point any more, once all that it shares with that was copied into it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        wanted = _GOES_WITH[self.action]
        given = {name for name in _PARTICULARS if getattr(self, name) is not None}
        if given != wanted:
            raise ValueError(f"{self.action} goes with {', '.join(sorted(wanted)) or 'none of ' + _ALL}")
        if self.flatten and self.action != "clone":
            raise ValueError(f"{self.action} does not go with flatten")
        return self


_GOES_WITH: dict[str, set[str]] = {
    "replicate": set(),
    "snapshot": set(),
    "delete": {"point"},
    "rollback": {"node", "at"},
    "clone": {"node", "at", "name"},
    "mount": {"node", "at", "name", "seconds"},
    "unclone": {"node", "name"},
}
_PARTICULARS = ("point", "node", "at", "name", "seconds")
_ALL = ", ".join(_PARTICULARS)
