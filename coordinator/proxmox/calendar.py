"""Calendar events: when a schedule fires, exactly as Proxmox's scheduler computes it.

Grammar: `[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOURS:]MINUTES[:SECONDS] [UTC]`, or one of `minutely` … `yearly`.
Source of the rules: the behaviour of proxmox-time (Proxmox VE 7.1 and later), which its Perl code calls too.

Three corners that surprise people, kept on purpose:

- a lone number is a *minute*: `mon..fri 22` fires at minute 22 of every hour, not at 10 PM;
- the search walks the wall clock. A reading that comes twice (clocks set back) fires once, the first time; one that
  never comes (clocks set forward) does not fire that day;
- a step that does not divide its period is carried over the period's end: `*/45` as minutes fires at :45 only.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import TypeVar

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY_NUMBER = {name: n for n, day in enumerate(_WEEKDAYS) for name in (day, day[:3])}

# Proxmox gives up after so many corrections: the date never comes (02-30, or a year that has passed).
_MAX_CORRECTIONS = 1001

_HELP = "write [WEEKDAYS] [[YEAR-]MONTH-DAY] [HOURS:]MINUTES[:SECONDS] [UTC], for example 'mon..fri 22:00' or '*/15'"


class CalendarError(ValueError):
    """A text that is no calendar event."""


@dataclass(frozen=True)
class Term:
    """The values `first`, `first + step`, … up to `last`; without `last` they are bounded by nothing."""

    first: int
    step: int = 1
    last: int | None = None

    def has(self, value: int) -> bool:
        """Whether the term names `value`."""
        return (
            value >= self.first and (value - self.first) % self.step == 0 and (self.last is None or value <= self.last)
        )

    def next(self, value: int) -> int | None:
        """Return the term's smallest value above `value`; it may lie beyond the period (minute 63), as in Proxmox."""
        if value < self.first:
            return self.first
        following = self.first + ((value - self.first) // self.step + 1) * self.step
        return following if self.last is None or following <= self.last else None


Terms = tuple[Term, ...]
ANY: Terms = ()
ZERO: Terms = (Term(0, last=0),)


def _matches(terms: Terms, value: int) -> bool:
    return not terms or any(term.has(value) for term in terms)


def _next(terms: Terms, value: int) -> int | None:
    return min((n for term in terms if (n := term.next(value)) is not None), default=None)


@dataclass(frozen=True)
class CalendarEvent:
    """A parsed calendar event; empty terms (or weekdays) mean any value."""

    utc: bool = False
    weekdays: frozenset[int] = frozenset()  # Monday is 0
    year: Terms = ANY
    month: Terms = ANY
    day: Terms = ANY
    hour: Terms = ZERO
    minute: Terms = ZERO
    second: Terms = ZERO

    @classmethod
    def parse(cls, text: str) -> "CalendarEvent":
        """Read a calendar event; raises CalendarError."""
        try:
            event, rest = _event(text)
        except _Mismatch as error:
            raise CalendarError(f"calendar event {text!r}: {error}; {_HELP}") from None
        if rest:
            raise CalendarError(f"calendar event {text!r}: cannot read it from {rest!r} on; {_HELP}")
        return event

    def next_after(self, instant: datetime, zone: tzinfo) -> datetime | None:
        """Return the first instant strictly after `instant` (aware) when the event fires, read in `zone`.

        None if it never comes. The result is in UTC: Python compares two readings of one zone without regard to
        the clocks being changed between them.
        """
        tz = UTC if self.utc else zone
        last = instant.astimezone(UTC).replace(microsecond=0)
        try:
            wall = (last + timedelta(seconds=1)).astimezone(tz).replace(tzinfo=None, fold=0)
            for _ in range(_MAX_CORRECTIONS):
                corrected = self._correct(wall)
                if corrected is None:
                    return None
                found = _after(corrected, tz, last)
                if corrected == wall:
                    return found
                wall = found.astimezone(tz).replace(tzinfo=None, fold=0)
        except OverflowError:  # past the year 9999
            return None
        return None

    def _correct(self, wall: datetime) -> datetime | None:
        """Return `wall` if it matches, else a later reading to try, None if there is none. Largest field first."""
        midnight = wall.replace(hour=0, minute=0, second=0)
        if not _matches(self.year, wall.year):
            year = _next(self.year, wall.year)
            return None if year is None else _month(year, 1)
        if not _matches(self.month, wall.month):
            return _month(wall.year, _next(self.month, wall.month) or 13)
        if not _matches(self.day, wall.day):
            day = _next(self.day, wall.day)
            return _month(wall.year, wall.month + 1) if day is None else midnight + timedelta(days=day - wall.day)
        if self.weekdays and wall.weekday() not in self.weekdays:
            ahead = min((day - wall.weekday() for day in self.weekdays if day > wall.weekday()), default=None)
            return midnight + timedelta(days=7 - wall.weekday() if ahead is None else ahead)
        if not _matches(self.hour, wall.hour):
            return midnight + timedelta(hours=_next(self.hour, wall.hour) or 24)
        if not _matches(self.minute, wall.minute):
            return wall.replace(minute=0, second=0) + timedelta(minutes=_next(self.minute, wall.minute) or 60)
        if not _matches(self.second, wall.second):
            return wall.replace(second=0) + timedelta(seconds=_next(self.second, wall.second) or 60)
        return wall


def _month(year: int, month: int) -> datetime:
    """Return the start of a month; month 16 is April of the next year."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    if year > 9999:
        raise OverflowError
    return datetime(year, month, 1)


def _after(wall: datetime, tz: tzinfo, last: datetime) -> datetime:
    """Return the instant of a reading: its first coming, or its second when `last` lies beyond the first.

    A reading that the clocks skip is taken as far behind the change as it pretends to be.
    """
    first = wall.replace(tzinfo=tz).astimezone(UTC)
    if first <= last:
        return wall.replace(tzinfo=tz, fold=1).astimezone(UTC)
    return first


# --- the grammar. A rule takes a text and returns a value and the rest, or raises _Mismatch: alternatives are tried in
# order, as in Proxmox's parser, so that what reads oddly reads oddly in the same way (30:15 is minute 30, second 15).


_T = TypeVar("_T")


class _Mismatch(Exception):
    pass


_KEYWORDS = {
    "minutely": CalendarEvent(hour=ANY, minute=ANY),
    "hourly": CalendarEvent(hour=ANY),
    "daily": CalendarEvent(),
    "weekly": CalendarEvent(weekdays=frozenset({0})),
    "monthly": CalendarEvent(day=(Term(1, last=1),)),
    "yearly": CalendarEvent(day=(Term(1, last=1),), month=(Term(1, last=1),)),
    "quarterly": CalendarEvent(day=(Term(1, last=1),), month=tuple(Term(m, last=m) for m in (1, 4, 7, 10))),
    "semiannually": CalendarEvent(day=(Term(1, last=1),), month=tuple(Term(m, last=m) for m in (1, 7))),
}
_KEYWORDS["annually"] = _KEYWORDS["yearly"]
_KEYWORDS["semi-annually"] = _KEYWORDS["semiannually"]


def _event(text: str) -> tuple[CalendarEvent, str]:
    utc = text.endswith("UTC")
    rest = text.removesuffix("UTC").rstrip(" ") if utc else text
    if keyword := _KEYWORDS.get(rest):
        return replace(keyword, utc=utc), ""
    start = rest
    fields: dict[str, Terms] = {}
    weekdays: frozenset[int] = frozenset()
    if re.match(r"[A-Za-z]", rest):
        ranges, rest = _list(_weekday_range, rest)
        weekdays = frozenset().union(*ranges)
        rest = rest.lstrip(" \t")
    with suppress(_Mismatch):
        dates, rest = _date(rest)
        fields |= dates
        rest = rest.lstrip(" \t")
    try:
        times, rest = _time(rest)
        fields |= times
    except _Mismatch as error:
        if rest == start:
            raise _Mismatch(f"no date or time ({error})" if rest else "it is empty") from None
    return CalendarEvent(utc=utc, weekdays=weekdays, **fields), rest


def _date(text: str) -> tuple[dict[str, Terms], str]:
    try:
        year, rest = _terms(text, first=0, bound=2200)
        month, rest = _terms(_literal("-", rest), first=1, bound=13)
        day, rest = _terms(_literal("-", rest), first=1, bound=32)
    except _Mismatch:
        month, rest = _terms(text, first=1, bound=13)
        day, rest = _terms(_literal("-", rest), first=1, bound=32)
        year = ANY
    return {"year": year, "month": month, "day": day}, rest


def _time(text: str) -> tuple[dict[str, Terms], str]:
    hour, second = ANY, ZERO
    try:
        hour, rest = _terms(text, first=0, bound=24)
        rest = _literal(":", rest)
    except _Mismatch:
        hour, rest = ANY, text
    minute, rest = _terms(rest, first=0, bound=60)
    with suppress(_Mismatch):
        second, rest = _terms(_literal(":", rest), first=0, bound=60)
    return {"hour": hour, "minute": minute, "second": second}, rest


def _terms(text: str, first: int, bound: int) -> tuple[Terms, str]:
    """`*`, `*/STEP` (alone), or a list of terms by comma."""
    if not text.startswith("*"):
        terms, rest = _list(partial(_term, bound=bound), text)
        return tuple(terms), rest
    if text.startswith("*/"):
        step, rest = _number(text[2:], bound)
        if step > 0:
            return (Term(first, step),), rest
    return ANY, text[1:]


def _term(text: str, bound: int) -> tuple[Term, str]:
    """`A`, `A..B`, `A/STEP` or `A..B/STEP`; a step of 0 means A alone."""
    first, rest = _number(text, bound)
    last: int | None = None
    if rest.startswith(".."):
        with suppress(_Mismatch):
            last, rest = _number(rest[2:], bound)
    if last is not None and first > last:
        raise _Mismatch(f"the range {first}..{last} ends before it begins")
    if rest.startswith("/"):
        step, rest = _number(rest[1:], bound)
        return (Term(first, step, last) if step else Term(first, last=first)), rest
    return Term(first, last=first if last is None else last), rest


def _number(text: str, bound: int) -> tuple[int, str]:
    digits = re.match(r"[0-9]+", text)
    if digits is None:
        raise _Mismatch(f"no number at {text!r}" if text else "it ends too early")
    # ten digits and more are beyond any bound, and thousands of them beyond what int() takes
    if len(digits[0].lstrip("0")) > 4 or (number := int(digits[0][-5:])) >= bound:
        raise _Mismatch(f"{digits[0][:10]} is too large, the largest here is {bound - 1}")
    return number, text[digits.end() :]


def _weekday_range(text: str) -> tuple[frozenset[int], str]:
    """`mon`, or `fri..mon`, which wraps over Sunday."""
    first, rest = _weekday(text)
    if not rest.startswith(".."):
        return frozenset({first}), rest
    try:
        last, rest = _weekday(rest[2:])
    except _Mismatch:
        return frozenset({first}), rest
    return frozenset((first + n) % 7 for n in range((last - first) % 7 + 1)), rest


def _weekday(text: str) -> tuple[int, str]:
    name = re.match(r"[A-Za-z]*", text)
    assert name is not None
    number = _WEEKDAY_NUMBER.get(name[0].lower())
    if number is None:
        raise _Mismatch(f"{name[0]!r} is no weekday" if name[0] else f"no weekday at {text!r}")
    return number, text[name.end() :]


def _list(rule: Callable[[str], tuple[_T, str]], text: str) -> tuple[list[_T], str]:
    value, rest = rule(text)
    values = [value]
    while rest.startswith(","):
        try:
            value, rest = rule(rest[1:])
        except _Mismatch:
            break
        values.append(value)
    return values, rest


def _literal(character: str, text: str) -> str:
    if not text.startswith(character):
        raise _Mismatch(f"{character!r} expected at {text!r}")
    return text[1:]
