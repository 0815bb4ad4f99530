"""Time spans: `1h 30min`, `30s`, `2 days`, with Proxmox's units (proxmox-time, after systemd.time)."""

import re

_SECONDS = {
    "ns": 1e-9, "nsec": 1e-9,
    "us": 1e-6, "µs": 1e-6, "usec": 1e-6,
    "ms": 1e-3, "msec": 1e-3,
    "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "week": 604800, "weeks": 604800,
    "M": 2630016, "month": 2630016, "months": 2630016,  # 30.44 days
    "y": 31557600, "year": 31557600, "years": 31557600,  # 365.25 days
}  # fmt: skip

_PART = re.compile(r"[ \t]*([0-9]+)[ \t]*([A-Za-zµ]*)")
_LARGEST = 2**64 - 1


class SpanError(ValueError):
    """A text that is no time span."""


def parse_span(text: str) -> float:
    """Return the seconds of a time span; parts add up in any order, a number without unit is seconds.

    Units are case-sensitive: `m` is a minute, `M` a month of 30.44 days. Raises SpanError, also for an empty text
    (Proxmox reads that as 0: never what somebody who writes an RPO means).
    """
    seconds = 0.0
    rest = text.rstrip(" \t")
    if not rest:
        raise SpanError(f"time span {text!r} is empty; write for example '30s' or '1h 30min'")
    while rest:
        part = _PART.match(rest)
        if part is None or part[2] not in _SECONDS:
            where = rest.lstrip() if part is None else part[2]
            raise SpanError(f"time span {text!r}: cannot read {where!r}; units are s, min, h, d, w, M (month), y, ms")
        if len(part[1]) > 20 or int(part[1]) > _LARGEST:
            raise SpanError(f"time span {text!r}: {part[1][:24]} is too large")
        seconds += int(part[1]) * _SECONDS[part[2]]
        rest = rest[part.end() :]
    return seconds
