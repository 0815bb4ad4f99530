"""`desired/policies/<name>`: which guests are protected, to where, and how old a replica may be.

When guests are snapshotted besides is said by policies of the other kind (`snapshot_policy`), in the same folder.
"""

from typing import Annotated, Literal, Self

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.names import NodeName, StoreId
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.times import Calendar, Rpo
from pydantic import Field, model_validator

Bandwidth = Annotated[int, Field(ge=1024, le=2**40)]
"""Bytes per second."""


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
