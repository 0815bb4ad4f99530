"""Spans of time and calendar events as people write them in policies."""

from typing import Annotated

from holdfast.coordinator.proxmox.calendar import CalendarEvent
from holdfast.coordinator.proxmox.duration import parse_span
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema


def _seconds(value: object) -> object:
    return parse_span(value) if isinstance(value, str) else value


def _calendar(value: str) -> str:
    CalendarEvent.parse(value)
    return value


MIN_RPO = 5
"""Seconds. ZFS writes a transaction group every 5 s (zfs_txg_timeout); below that a figure would be a promise."""

MIN_EVERY = 5
"""Seconds between two snapshots of a policy: for the same reason."""

LONGEST = 366 * 86400

Rpo = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=MIN_RPO, le=LONGEST),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": MIN_RPO, "maximum": LONGEST}, {"type": "string"}]}),
]
Every = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=MIN_EVERY, le=LONGEST),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": MIN_EVERY, "maximum": LONGEST}, {"type": "string"}]}),
]
Calendar = Annotated[str, AfterValidator(_calendar)]
