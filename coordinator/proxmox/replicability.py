"""Which of a guest's volumes Proxmox's replication would carry, and why it leaves the others.

Source of the rules: the behaviour of get_replicatable_volumes in PVE::QemuConfig and PVE::LXC::Config. What cannot
move with its guest (a local ISO, a bind mount, a device of the node) becomes a condition: something to know before a
migration or failover, not a surprise at one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import volumes
from .drives import Drive
from .guest_config import GuestConfig
from .storage_config import Storage
from .storage_types import TYPES
from .volumes import VolumeError


@dataclass(frozen=True)
class Verdict:
    """Whether a disk is replicated; `reason` says why not."""

    replicated: bool
    reason: str | None = None


@dataclass(frozen=True)
class Condition:
    """Something that holds a guest to its node, or that it would lose elsewhere."""

    slot: str
    reason: str
    message: str


REPLICATED = Verdict(True)

_NO_VOLUME = {"bind": "bind mount", "device": "device", "file": "file outside of any storage"}
_CONDITIONS = {"cdrom": "local-iso", "bind": "bind-mount", "device": "device", "file": "local-file"}


def verdict(config: GuestConfig, drive: Drive, storages: Mapping[str, Storage] | None) -> Verdict:
    """Judge one disk as it stands in the current configuration.

    `storages` are those of storage.cfg; None if it is not known, and then a storage is taken to be one that replicates.
    """
    if drive.kind == "empty":
        return Verdict(False, "no disk")
    # a volume that several sections name goes by what permits more
    references = [other for other in every_drive(config) if other.source == drive.source]
    if all(_is_cdrom(other) for other in references):
        return Verdict(False, "cdrom")
    if not any(other.replicate for other in references):
        return Verdict(False, "replicate=0")
    return _of_source(config, drive, storages)


def _is_cdrom(drive: Drive) -> bool:
    return drive.options.get("media") == "cdrom"


def _of_source(config: GuestConfig, drive: Drive, storages: Mapping[str, Storage] | None) -> Verdict:
    if drive.kind in _NO_VOLUME:
        return Verdict(False, _NO_VOLUME[drive.kind])
    if drive.storage is None or drive.volname is None:
        return Verdict(False, "not a volume")
    storage_type = "zfspool"
    if storages is not None:
        storage = storages.get(drive.storage)
        if storage is None:
            return Verdict(False, f"storage {drive.storage!r} does not exist")
        if storage.shared:
            return Verdict(False, "shared storage")
        if storage.known is None:
            return Verdict(False, f"storage type {storage.type!r} is not known")
        storage_type = storage.type
    elif "/" in drive.volname and drive.volname.split("/", 1)[0].isdecimal():
        storage_type = "dir"
    try:
        volume = volumes.parse(drive.volname, storage_type)
    except VolumeError as error:
        return Verdict(False, str(error))
    if volume.vmid != config.vmid:
        return Verdict(False, "not owned by this guest" if volume.vmid else "owned by no guest")
    if volume.vtype != "images":
        return Verdict(False, f"content type {volume.vtype}")
    if not TYPES[storage_type].can("replicate", "base" if volume.is_base else "current", volume.format or ""):
        return Verdict(False, f"storage type {storage_type} cannot replicate")
    return REPLICATED


def every_drive(config: GuestConfig) -> Iterator[Drive]:
    """Yield every disk that Proxmox looks at: the current ones, those of snapshots and a VM's pending ones."""
    pending = [config.pending] if config.type == "qemu" else []
    for part in (config.current, *pending, *config.snapshots.values()):
        yield from part.drives.values()


def replicated_volumes(config: GuestConfig, storages: Mapping[str, Storage] | None) -> list[str]:
    """Return the IDs of all volumes that replication carries, those of snapshots and of pending changes included."""
    found = {
        drive.source: None
        for drive in every_drive(config)
        if drive.kind == "volume" and verdict(config, drive, storages).replicated
    }
    return list(found)


def conditions(config: GuestConfig, storages: Mapping[str, Storage] | None) -> list[Condition]:
    """Return what holds a guest to its node, or is lost elsewhere."""
    found = []
    for slot, drive in config.current.drives.items():
        message = _holds(drive, storages)
        if message is not None and not drive.shared:
            found.append(Condition(slot, _CONDITIONS[drive.kind], message))
    for slot, value in config.devices():
        if "mapping=" in value:
            continue  # every node may have its own device under the mapped name
        if value.partition(",")[0].lower() in ("spice", "host=spice", "socket"):
            continue  # made anew wherever the guest runs
        found.append(Condition(slot, "device", f"{slot} passes a device of the node to the guest: {value}"))
    return found


def _holds(drive: Drive, storages: Mapping[str, Storage] | None) -> str | None:
    if drive.kind == "bind":
        return f"{drive.slot} mounts {drive.source} of the node: no storage carries it along"
    if drive.kind == "device":
        return f"{drive.slot} is the node's device {drive.source}"
    if drive.kind == "file":
        return f"{drive.slot} is the file {drive.source}, outside of any storage"
    if drive.kind != "cdrom" or drive.is_cloudinit:
        return None
    if drive.storage is None:
        return f"{drive.slot} holds {drive.source} of the node"
    storage = (storages or {}).get(drive.storage)
    if storage is not None and storage.shared:
        return None
    return f"{drive.slot} holds {drive.source}, which other nodes lack: eject it or keep it on shared storage"
