"""`desired/requests/<id>`: something to be done once. It is pruned when old."""

from typing import Annotated, Literal, Self

from holdfast.coordinator.model.names import Vmid
from holdfast.coordinator.model.record import Instant, Record
from pydantic import AfterValidator, StringConstraints, model_validator


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


class Request(Record):
    """Something to be done once.

    `replicate`: take a new point of the guest now, whatever its schedule says, and bring it to every target.
    `snapshot`: take a point that bears this request's name, and keep it until its deletion is asked for.
    `delete`: let go of a point, on every node, as soon as replication does not need it.
    """

    action: Literal["replicate", "snapshot", "delete"]
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

    @model_validator(mode="after")
    def _delete_names_a_point(self) -> Self:
        if (self.action == "delete") != (self.point is not None):
            raise ValueError("a point is named by delete, and by nothing else")
        return self
