"""`desired/requests/<id>`: something to be done once. It is pruned when old."""

from typing import Annotated, Literal, Self

from holdfast.coordinator.model.names import NodeName, Vmid
from holdfast.coordinator.model.record import Instant, Record
from pydantic import Field, StringConstraints, model_validator

CopyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
"""What people call a copy of a point: letters, digits and dashes."""
PointNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,15}-[1-9][0-9]{0,15}$")]
"""EPOCH-SEQUENCE."""
MAX_MOUNTED = 7 * 86400
"""Seconds. A mounted point keeps its snapshots."""


class Request(Record):
    """Something to be done once.

    `replicate`: take a new point of the guest now, whatever its schedule says, and bring it to every target.
    `rollback`: bring the guest, which is off, back to a point; what it was before is set aside.
    `clone`: make a copy of a point, which nothing else uses. `mount`: the same to read files from, for a while.
    `unclone`: destroy a copy, mounted or not.
    """

    action: Literal["replicate", "rollback", "clone", "mount", "unclone"]
    """What is to be done."""
    vmid: Vmid
    """To which guest."""
    asked: Instant
    """When; a point that is newer fulfils `replicate`."""
    by: str = ""
    """Who asked."""
    node: NodeName | None = None
    """Which node is to do it; not for `replicate`, which its owner does."""
    at: PointNumber | None = None
    """The point, as EPOCH-SEQUENCE."""
    name: CopyName | None = None
    """What the copy is called."""
    seconds: Annotated[int, Field(ge=1, le=MAX_MOUNTED)] | None = None
    """After how many a mounted point is let go of."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        wanted = {
            "replicate": set[str](),
            "rollback": {"node", "at"},
            "clone": {"node", "at", "name"},
            "mount": {"node", "at", "name", "seconds"},
            "unclone": {"node", "name"},
        }[self.action]
        given = {name for name in ("node", "at", "name", "seconds") if getattr(self, name) is not None}
        if given != wanted:
            raise ValueError(
                f"{self.action} goes with {', '.join(sorted(wanted)) or 'none of node, at, name, seconds'}"
            )
        return self
