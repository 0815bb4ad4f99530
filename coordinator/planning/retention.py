"""Retention: which of several dated things to keep. One engine for snapshots, points and backups.

The rules are Proxmox's (prune-backups): `last`, `hourly`, `daily`, `weekly`, `monthly` and `yearly` act in this order
over the items from newest to oldest. Each keeps the newest item of a period, for so many periods; a period that an
earlier rule already keeps an item of is passed over and does not count. Counts are periods that hold something, never
ages. Periods are read on the node's clock; weeks are ISO weeks. `all`, or no rule at all, keeps everything.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Rule = Literal["all", "last", "hourly", "daily", "weekly", "monthly", "yearly"]

_COUNTED: tuple[Rule, ...] = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SHORT: dict[str, Rule] = {"h": "hourly", "d": "daily", "w": "weekly", "m": "monthly", "y": "yearly"}
_BOOLEANS = {"1": True, "on": True, "yes": True, "true": True, "0": False, "off": False, "no": False, "false": False}
_LARGEST = 2**53

_PERIOD: dict[Rule, Callable[[datetime], Hashable]] = {
    "last": datetime.timestamp,
    "hourly": lambda t: (t.year, t.month, t.day, t.hour),
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: t.isocalendar()[:2],
    "monthly": lambda t: (t.year, t.month),
    "yearly": lambda t: t.year,
}


class RetentionError(ValueError):
    """A text that is no retention rule."""


class Keep(BaseModel):
    """How many periods of each length keep an item; 0 switches a rule off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    last: int = Field(default=0, ge=0)
    hourly: int = Field(default=0, ge=0)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)
    yearly: int = Field(default=0, ge=0)
    all: bool = False

    @model_validator(mode="after")
    def _all_stands_alone(self) -> "Keep":
        if self.all and self.counts():
            raise ValueError("'all' cannot be combined with counts: remove one of them")
        return self

    def counts(self) -> dict[Rule, int]:
        """Return the rules that are switched on, in the order in which they act."""
        return {rule: count for rule in _COUNTED if (count := getattr(self, rule)) > 0}

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read `keep-last=3,keep-daily=7` (`keep-` may be left out), or the short form `36h/5d/2m`.

        The short form means hourly=36, daily=5, monthly=2: counts, never minutes or ages. An empty text keeps all,
        as in Proxmox. Raises RetentionError.
        """
        pairs = _short_pairs(text) if re.match(r"[0-9]", text) else _long_pairs(text)
        values: dict[str, int | bool] = {}
        for rule, value in pairs:
            if rule in values:
                raise RetentionError(f"retention {text!r} gives {rule!r} twice")
            values[rule] = _value(text, rule, value)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RetentionError(f"retention {text!r}: {reason}") from None


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
    newest_first = sorted(range(len(items)), key=lambda n: items[n][0], reverse=True)
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


def _long_pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, text.split(",")):
        rule, equals, value = part.partition("=")
        rule = rule.removeprefix("keep-")
        if not equals or rule not in Keep.model_fields:
            raise RetentionError(
                f"retention {text!r}: {part!r} is no rule; write for example 'last=3,daily=7', "
                "with last, hourly, daily, weekly, monthly, yearly, all"
            )
        pairs.append((rule, value))
    return pairs


def _short_pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in text.split("/"):
        match = re.fullmatch(r"([0-9]+)([hdwmy])", part)
        if match is None:
            raise RetentionError(
                f"retention {text!r}: {part!r} is no count with h, d, w, m or y; write for example '36h/5d/2m'"
            )
        pairs.append((_SHORT[match[2]], match[1]))
    return pairs


def _value(text: str, rule: str, value: str) -> int | bool:
    if rule == "all":
        if value.lower() not in _BOOLEANS:
            raise RetentionError(f"retention {text!r}: 'all' takes 0 or 1, not {value!r}")
        return _BOOLEANS[value.lower()]
    if not re.fullmatch(r"\+?[0-9]{1,16}", value) or int(value) > _LARGEST:
        raise RetentionError(f"retention {text!r}: {rule!r} takes a count, not {value!r}")
    return int(value)
