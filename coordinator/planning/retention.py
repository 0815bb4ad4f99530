"""Retention: which of several dated things to keep. One engine for snapshots, points and backups.

The rules are Proxmox's (prune-backups): `last`, `hourly`, `daily`, `weekly`, `monthly` and `yearly` act in this order
over the items from newest to oldest. Each keeps the newest item of a period, for so many periods; a period that an
earlier rule already keeps an item of is passed over and does not count. Counts are periods that hold something, never
ages. Periods are read on the node's clock; weeks are ISO weeks. `all`, or no rule at all, keeps everything.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from holdfast.coordinator.model.keep import Keep, Rule

_PERIOD: dict[Rule, Callable[[datetime], Hashable]] = {
    "last": datetime.timestamp,
    "hourly": lambda t: (t.year, t.month, t.day, t.hour),
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: t.isocalendar()[:2],
    "monthly": lambda t: (t.year, t.month),
    "yearly": lambda t: t.year,
}


@dataclass(frozen=True)
class Decision:
    """What becomes of one item; `rule` is the one that keeps it."""

    time: datetime
    name: str
    keep: bool
    rule: Rule | None


def apply(keep: Keep, items: Sequence[tuple[datetime, str]], zone: tzinfo) -> list[Decision]:
    """Decide on every item, in the order given. Instants are aware; periods are read in `zone`, to the second."""
    counts = keep.counts()
    if not counts:
        return [Decision(time, name, True, "all") for time, name in items]
    newest_first = sorted(range(len(items)), key=lambda n: items[n][0].timestamp(), reverse=True)
    local = [time.astimezone(zone).replace(microsecond=0) for time, _ in items]
    kept_by: dict[int, Rule] = {}
    removed: set[int] = set()
    for rule, count in counts.items():
        period = [_PERIOD[rule](time) for time in local]
        covered = {period[n] for n in kept_by}
        found: set[Hashable] = set()
        for n in newest_first:
            if n in kept_by or n in removed or period[n] in covered:
                continue
            if period[n] in found:
                # a later rule does not get it: its period had its chance here
                removed.add(n)
            elif len(found) == count:
                break
            else:
                found.add(period[n])
                kept_by[n] = rule
    return [Decision(time, name, n in kept_by, kept_by.get(n)) for n, (time, name) in enumerate(items)]
