"""What can be done with the volumes of each type of storage: one table, for plans, refusals and people alike.

The agent's back ends (`agent/storage/`) do what it says. A type that is not in it is left alone.
"""

from collections.abc import Mapping
from enum import StrEnum


class Capability(StrEnum):
    """One thing that some types of storage can do and others cannot."""

    POINTS = "points"
    REPLICAS = "replicas"
    INCREMENTAL = "incremental"
    RESUME = "resume"
    ATOMIC = "atomic"
    HOLDS = "holds"
    BOOKMARKS = "bookmarks"
    RESIZE = "resize"
    ROLLBACK = "rollback"
    CLONE = "clone"
    MOUNT = "mount"
    FLATTEN = "flatten"
    TRASH = "trash"
    SHARED = "shared"
    FENCE = "fence"

    @property
    def words(self) -> str:
        """For operators, to go on from "can" or "cannot"."""
        return _WORDS[self]


_WORDS: Mapping[Capability, str] = {
    Capability.POINTS: "have recovery points",
    Capability.REPLICAS: "keep replicas",
    Capability.INCREMENTAL: "send only what changed",
    Capability.RESUME: "go on with a stream where it was cut",
    Capability.ATOMIC: "snapshot several disks at one instant while the guest writes",
    Capability.HOLDS: "keep anybody from removing a snapshot that is needed",
    Capability.BOOKMARKS: "go on incrementally once the snapshot itself has gone",
    Capability.RESIZE: "let replicas follow a disk's new size",
    Capability.ROLLBACK: "bring a guest back to a point",
    Capability.CLONE: "make copies of points",
    Capability.MOUNT: "mount points",
    Capability.FLATTEN: "make copies that do not need their point",
    Capability.TRASH: "keep what is removed for a time of grace",
    Capability.SHARED: "be reached by several nodes at once",
    Capability.FENCE: "shut out a client that may still write",
}

C = Capability
CAN: Mapping[str, frozenset[Capability]] = {
    "zfspool": frozenset(
        {C.POINTS, C.REPLICAS, C.INCREMENTAL, C.RESUME, C.ATOMIC, C.HOLDS, C.BOOKMARKS}
        | {C.RESIZE, C.ROLLBACK, C.CLONE, C.MOUNT}
    ),
    "rbd": frozenset(
        {C.POINTS, C.REPLICAS, C.INCREMENTAL, C.HOLDS, C.RESIZE, C.ROLLBACK}
        | {C.CLONE, C.MOUNT, C.FLATTEN, C.TRASH, C.SHARED, C.FENCE}
    ),
}
"""By Proxmox's storage type."""

_INSTEAD: Mapping[Capability, str] = {C.FLATTEN: " Make a copy that needs it, and zfs send | zfs recv that."}
"""What to do where a thing cannot be done."""


def types_that(wanted: Capability) -> str:
    """The types that can, as a list to read."""
    return ", ".join(sorted(type for type, can in CAN.items() if wanted in can)) or "none"


def type_of(dataset: str) -> str:
    """The type of the storage that holds a dataset, by its name."""
    return "rbd" if dataset.startswith("rbd:") else "zfspool"


def lacking(dataset: str, wanted: Capability) -> str | None:
    """Why a thing cannot be done with a dataset, for operators; None: it can."""
    type = type_of(dataset)
    if wanted in CAN[type]:
        return None
    instead = _INSTEAD.get(wanted, "")
    return f"{dataset} is on storage of type {type}, which cannot {wanted.words} (can: {types_that(wanted)}).{instead}"
