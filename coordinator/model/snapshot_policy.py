"""`desired/policies/<name>` of `kind: SnapshotPolicy`: which guests are snapshotted when, and which snapshots stay.

A snapshot of a policy is a recovery point like any other: all disks at one instant, with the guest's definition.
"""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.times import Calendar, Every
from pydantic import AfterValidator, StringConstraints, model_validator

Prefix = Annotated[str, StringConstraints(pattern=r"^(?:[a-z][a-z0-9]{0,15})?$")]
"""In a snapshot's name, between `holdfast-` and the point's number."""

_FLOOR = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(%|[KMGTP](?:i?B)?)\Z")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


class Wish(StrEnum):
    """What a policy wants of a guest while it is snapshotted, besides one instant for all disks of a pool."""

    NONE = "none"
    """Nothing: the guest runs on."""
    PAUSED = "paused"
    """The guest stands still, so that disks on several pools are of one instant as well."""
    FROZEN = "frozen"
    """Its filesystems are flushed and frozen, by its agent or its control group."""


def least_free(text: str, total: int) -> int:
    """Bytes that are to stay free of a pool of `total` bytes, by a text such as `10%` or `50G`. Raises ValueError."""
    match = _FLOOR.match(text)
    if match is None or (match[2] == "%" and float(match[1]) >= 100):
        raise ValueError(f"{text!r} is no amount of free space; write for example '10%' or '50G'")
    if match[2] == "%":
        return int(total * float(match[1]) / 100)
    return int(float(match[1]) * _UNITS[match[2][0]])


def _floor(text: str) -> str:
    least_free(text, 0)
    return text


class SnapshotPolicy(Record):
    """Take snapshots of the selected guests, and keep those that the rule says."""

    kind: Literal["SnapshotPolicy"] = "SnapshotPolicy"
    """Tells it from a ProtectionPolicy, which lies in the same folder."""
    selector: Selector
    """Which guests."""
    schedule: Calendar | None = None
    """A calendar event as Proxmox writes it: `hourly`, `22:30`, `mon..fri 08:00`. Either this or every."""
    every: Every | None = None
    """Seconds, or a span such as `15m`, `1h`; counted from 1970, so that guests fall due together."""
    keep: Keep
    """Which snapshots stay where the guest runs: `last=3,daily=7`, or `36h/5d/2m`."""
    replicas: Keep | None = None
    """Which of them stay on the nodes that the guest is replicated to; left out: as `keep` says."""
    prefix: Prefix = ""
    """Goes into the snapshots' names: `holdfast-PREFIX-EPOCH-SEQUENCE`. Letters and digits."""
    consistency: Wish = Wish.NONE
    """What is wanted of the guest meanwhile; what was got is told for each point."""
    min_free: Annotated[str, AfterValidator(_floor)] = "10%"
    """With less free space on a pool of the guest no snapshot is taken: `10%` or `50G`. `0%`: always."""

    @model_validator(mode="after")
    def _one_of_schedule_and_every(self) -> Self:
        if (self.schedule is None) == (self.every is None):
            raise ValueError("give one of schedule (a calendar event: hourly, 22:30 …) and every (15m, 1h …)")
        return self

    @model_validator(mode="after")
    def _keep_says_something(self) -> Self:
        for name, keep in (("keep", self.keep), ("replicas", self.replicas)):
            if keep is not None and not keep.all and not keep.counts():
                raise ValueError(f"{name} keeps everything as it is; write a rule (36h/5d/2m), or all: true")
        return self

    @property
    def keep_on_replicas(self) -> Keep:
        """The rule that is in force there."""
        return self.replicas if self.replicas is not None else self.keep
