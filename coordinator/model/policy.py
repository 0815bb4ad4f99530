"""`desired/policies/<name>`: which guests are protected, to where, and how old a replica may be."""

from typing import Annotated, Literal, Self

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.names import NodeName, PoolName, StoreId, Tag, Vmid
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.proxmox.calendar import CalendarEvent
from holdfast.coordinator.proxmox.duration import parse_span
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator


def _seconds(value: object) -> object:
    return parse_span(value) if isinstance(value, str) else value


def _calendar(value: str) -> str:
    CalendarEvent.parse(value)
    return value


MIN_RPO = 5
"""Seconds. ZFS writes a transaction group every 5 s (zfs_txg_timeout); below that a figure would be a promise."""

MAX_RPO = 366 * 86400

Rpo = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=MIN_RPO, le=MAX_RPO),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": MIN_RPO, "maximum": MAX_RPO}, {"type": "string"}]}),
]
Calendar = Annotated[str, AfterValidator(_calendar)]
Bandwidth = Annotated[int, Field(ge=1024, le=2**40)]
"""Bytes per second."""


class Selector(Record):
    """Which guests: exactly one of these. A guest that no policy selects is reported as unprotected."""

    vmid: tuple[Vmid, ...] | None = None
    """Guests of these VMIDs."""
    tag: tuple[Tag, ...] | None = None
    """Guests with at least one of these tags."""
    pool: tuple[PoolName, ...] | None = None
    """Guests in one of these resource pools."""
    storage: tuple[StoreId, ...] | None = None
    """Guests with at least one disk on one of these storages."""
    all: bool | None = None
    """Every guest."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give exactly one of vmid, tag, pool, storage (each a non-empty list) or all: true")
        return self


class Target(Record):
    """One node to replicate to. `storages` maps the guest's storages to the target's; unmapped ones keep their name."""

    node: NodeName
    """The node that receives."""
    storages: dict[StoreId, StoreId] = Field(default_factory=dict)
    """The guest's storage → the target's; unmapped ones keep their name."""
    bandwidth: Bandwidth | None = None
    """Bytes per second at most for a guest; its disks are then sent one after another."""
    keep: Keep = Keep(last=1)
    """Which recovery points to keep there, besides the newest, which always stays."""


class ProtectionPolicy(Record):
    """Replicate the selected guests to each target, at most `rpo` old, or at the times of a calendar event."""

    selector: Selector
    """Which guests."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=16)]
    """To where; each node once."""
    rpo: Rpo | None = None
    """How old a replica may be: seconds, or a span such as `30s`, `15m`. Either this or schedule."""
    schedule: Calendar | None = None
    """A calendar event as Proxmox writes it: `*/15`, `22:30`, `mon..fri 08:00`. Either this or rpo."""
    consistency: Literal["paused", "none"] = "paused"
    """For guests with disks on several pools: `paused` for at most a second while a point is taken, or `none`."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.rpo is None) == (self.schedule is None):
            raise ValueError("give one of rpo (30s, 15m …) and schedule (a calendar event: */15, 22:30 …)")
        nodes = [target.node for target in self.targets]
        for node in nodes:
            if nodes.count(node) > 1:
                raise ValueError(f"target {node} is named twice; name each node once")
        return self
