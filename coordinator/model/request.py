"""`desired/requests/<id>`: something to be done once. It is pruned when old."""

from typing import Literal

from holdfast.coordinator.model.names import Vmid
from holdfast.coordinator.model.record import Instant, Record


class Request(Record):
    """`replicate`: take a new point of the guest now, whatever its schedule says, and bring it to every target."""

    action: Literal["replicate"]
    """What is to be done."""
    vmid: Vmid
    """To which guest."""
    asked: Instant
    """When; a point that is newer fulfils it."""
    by: str = ""
    """Who asked."""
