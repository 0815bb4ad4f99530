"""A condition says in one place what is wrong with one thing: the same words in `status`, the log and `explain`."""

from holdfast.coordinator.model.record import Instant, Record


class Condition(Record):
    """`reason` is one CamelCase word for machines; `message` says what was refused, why, and what to do next."""

    reason: str
    """One CamelCase word, for machines."""
    message: str
    """What was refused, why, and what to do next."""
    target: str | None = None
    """The node that it concerns, where one target of several is meant."""
    since: Instant | None = None
    """When it first held."""

    def same_as(self, other: "Condition") -> bool:
        """Equal but for the time since when."""
        return (self.reason, self.message, self.target) == (other.reason, other.message, other.target)


def keep_since(old: tuple[Condition, ...], new: tuple[Condition, ...], now: Instant) -> tuple[Condition, ...]:
    """The new conditions, each with the time at which it first held."""
    since = {(c.reason, c.target): c.since for c in old}
    return tuple(c.model_copy(update={"since": since.get((c.reason, c.target)) or now}) for c in new)
