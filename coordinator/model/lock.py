"""`locks/<vmid>`, and the tickets of those who wait for it: who, for what, since when. Both are leased."""

from holdfast.coordinator.model.record import Instant, Record


class Lock(Record):
    """Whoever holds a guest's lock, or waits for it."""

    holder: str
    """The node or coordinator."""
    operation: str
    """What it is held for, in words."""
    since: Instant
    """When it was got; in a ticket: when the waiting began."""
