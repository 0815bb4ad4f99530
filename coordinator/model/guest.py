"""`desired/guests/<vmid>`: a guest, its disks and where Proxmox has it; `desired/placements/<vmid>`: what is wanted."""

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import Literal

from holdfast.coordinator.model.names import DiskSlot, NodeName, PoolName, Size, Tag, VolumeId
from holdfast.coordinator.model.record import Record
from pydantic import Field, field_validator

MAX_DEFINITION = 256 * 1024
"""Bytes. Proxmox's guest files are a few KiB; pmxcfs refuses files over 1 MiB."""


class Disk(Record):
    """A slot bound to a volume. `size` in bytes, as the guest's definition has it."""

    volume: VolumeId
    """`STOREID:volname`, as Proxmox writes it."""
    size: Size | None = None
    """Bytes."""
    replicate: bool = True
    """Whether recovery points include it; false leaves it out knowingly."""

    @property
    def storeid(self) -> str:
        """The storage of the volume."""
        return self.volume.partition(":")[0]

    @property
    def volname(self) -> str:
        """The volume's name within its storage."""
        return self.volume.partition(":")[2]


class Guest(Record):
    """A VM or container. `node` is where it was last seen, which is not a claim to own it."""

    type: Literal["qemu", "lxc"]
    """A VM (qemu) or a container (lxc)."""
    node: NodeName | None = None
    """Where it was last seen."""
    name: str = ""
    """What people call it."""
    disks: dict[DiskSlot, Disk] = Field(default_factory=dict)
    """Slot (scsi0, rootfs, mp0 …) → disk."""
    tags: tuple[Tag, ...] = ()
    """Proxmox's tags; policies select by them."""
    pool: PoolName | None = None
    """Proxmox's resource pool; policies select by it."""
    definition: str = ""
    """The guest's configuration file as text, without secrets; every recovery point keeps it."""

    @field_validator("disks")
    @classmethod
    def _one_slot_a_volume(cls, disks: dict[str, Disk]) -> dict[str, Disk]:
        seen: dict[str, str] = {}
        for slot, disk in disks.items():
            if disk.volume in seen:
                raise ValueError(f"{slot} and {seen[disk.volume]} are both bound to {disk.volume}")
            seen[disk.volume] = slot
        return disks

    @field_validator("definition")
    @classmethod
    def _definition_is_small(cls, text: str) -> str:
        if len(text.encode()) > MAX_DEFINITION:
            raise ValueError(f"the definition is larger than {MAX_DEFINITION} bytes")
        return text

    @cached_property
    def digest(self) -> str:
        """Names the definition's text: the first 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]


class Mode(StrEnum):
    """How far Holdfast may go with a guest (DESIGN §3): adoption is step by step."""

    OBSERVE = "observe"
    REPLICATE = "replicate"
    HA = "ha"


class Placement(Record):
    """Where people want a guest, and how far Holdfast may go with it."""

    node: NodeName | None = None
    """Where it is to run."""
    mode: Mode = Mode.REPLICATE
    """How far Holdfast may go: observe, replicate or ha."""
