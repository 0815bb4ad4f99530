"""The slots of a guest that hold disks, and the property strings that fill them.

Source of the rules: the behaviour of PVE::QemuServer::Drive and PVE::LXC::Config. A slot whose value Proxmox would
refuse is refused here too (ValueRefused): the guest would start without it.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from . import values
from .values import Check, ValueRefused

GuestType = Literal["qemu", "lxc"]
Kind = Literal["volume", "cdrom", "empty", "file", "device", "bind"]

_SLOTS: dict[GuestType, dict[str, int]] = {
    "qemu": {"ide": 4, "sata": 6, "scsi": 31, "virtio": 16, "efidisk": 1, "tpmstate": 1, "unused": 256},
    "lxc": {"mp": 256, "unused": 256},
}
# devices that a guest takes from its node: no volumes, but they hold it there
_DEVICES: dict[GuestType, dict[str, int]] = {
    "qemu": {"hostpci": 16, "usb": 14, "serial": 4, "parallel": 3},
    "lxc": {"dev": 256},
}


class Contradiction(ValueRefused):
    """Options each of which is right, but not all together: Proxmox keeps the line, and there is no disk."""


@dataclass(frozen=True)
class Drive:
    """One slot. `source` is a volume ID, a path, or what Proxmox writes for no disk (`none`, `cdrom`)."""

    slot: str
    kind: Kind
    source: str
    size: int | None  # bytes, as the file has it: informational
    backup: bool
    replicate: bool
    shared: bool  # said of a source that every node sees though no storage says so
    options: dict[str, Any]

    @property
    def storage(self) -> str | None:
        """The storage's ID, where the source is a volume."""
        return self._split()[0]

    @property
    def volname(self) -> str | None:
        """The volume's name on its storage."""
        return self._split()[1]

    @property
    def is_cloudinit(self) -> bool:
        """Whether it is the image from which a guest is set up: it can be made again, so it need not move."""
        return bool(re.search(r"[:/](?:vm-[0-9]+-)?cloudinit(?:\.(?:raw|qcow2?|qed|vmdk|cloop))?$", self.source))

    def _split(self) -> tuple[str, str] | tuple[None, None]:
        if self.source.startswith("/"):
            return None, None
        try:
            return values.volume_id(self.source)
        except ValueRefused:
            return None, None


def is_disk_slot(guest: GuestType, key: str) -> bool:
    """Whether a key of the guest's file names a disk, also an unused one."""
    return (guest == "lxc" and key == "rootfs") or _within(key, _SLOTS[guest])


def is_device_slot(guest: GuestType, key: str) -> bool:
    """Whether a key names a device of the node that is passed to the guest."""
    return _within(key, _DEVICES[guest])


def _within(key: str, limits: dict[str, int]) -> bool:
    match = re.fullmatch(r"([a-z]+)(0|[1-9][0-9]{0,2})", key)
    return match is not None and int(match[2]) < limits.get(match[1], 0)


def parse(guest: GuestType, slot: str, value: str) -> Drive:
    """Read a slot's value; raises ValueRefused, and Contradiction where that says more."""
    return _qemu(slot, value) if guest == "qemu" else _lxc(slot, value)


def vmstate(value: str) -> Drive:
    """Read the `vmstate` of a snapshot: the volume that holds the guest's memory."""
    values.volume_id(value)
    return Drive("vmstate", "volume", value, None, backup=False, replicate=True, shared=False, options={})


def _source(value: str) -> str:
    """A volume ID, an absolute path, `none` or `cdrom`."""
    if value not in ("none", "cdrom") and not value.startswith("/"):
        values.volume_id(value)
    return value


def _flag(value: str) -> bool:
    loose = values.loose_boolean(value)
    if loose is None:
        raise ValueRefused(f"{value!r} is neither 0 nor 1")
    return loose


_text = values.text
_count = values.integer()
_length = values.integer(1)
_serial = values.matching(r"[-%a-zA-Z0-9_.!~*'()]{0,60}", "URL-encoded text of at most 60 characters")
_model = values.matching(r"[-%a-zA-Z0-9_.!~*'()]{0,120}", "URL-encoded text of at most 120 characters")
_product = values.matching(r"[A-Za-z0-9\-_\s]{0,16}", "product of at most 16 characters")
_vendor = values.matching(r"[A-Za-z0-9\-_\s]{0,8}", "vendor of at most 8 characters")
_format = values.one_of("raw", "qcow", "qed", "qcow2", "vmdk", "cloop")
_wwn = values.matching(r"0x[0-9a-fA-F]{16}", "WWN")

_FILE: dict[str, Check] = {"file": _source, "size": values.size, "format": _format}
_THROTTLE: dict[str, Check] = (
    {f"{what}{way}": _count for what in ("bps", "iops") for way in ("", "_rd", "_wr")}
    | {f"mbps{way}": values.number for way in ("", "_rd", "_wr", "_max", "_rd_max", "_wr_max")}
    | {f"iops{way}_max": _count for way in ("", "_rd", "_wr")}
    | {f"{what}{way}_max_length": _length for what in ("bps", "iops") for way in ("", "_rd", "_wr")}
)
_DRIVE: dict[str, Check] = (
    _FILE
    | _THROTTLE
    | {
        "media": values.one_of("cdrom", "disk"),
        "cyls": _count,
        "heads": _count,
        "secs": _count,
        "trans": values.one_of("none", "lba", "auto"),
        "snapshot": _flag,
        "cache": values.one_of("none", "writethrough", "writeback", "unsafe", "directsync"),
        "backup": _flag,
        "replicate": _flag,
        "rerror": values.one_of("ignore", "report", "stop"),
        "werror": values.one_of("enospc", "ignore", "report", "stop"),
        "aio": values.one_of("native", "threads", "io_uring"),
        "discard": values.one_of("ignore", "on"),
        "detect_zeroes": _flag,
        "serial": _serial,
        "shared": _flag,
    }
)
_QEMU: dict[str, dict[str, Check]] = {
    "ide": _DRIVE | {"model": _model, "ssd": _flag, "wwn": _wwn},
    "sata": _DRIVE | {"ssd": _flag, "wwn": _wwn},
    "scsi": _DRIVE
    | {"iothread": _flag, "product": _product, "queues": values.integer(2), "ro": _flag, "scsiblock": _flag}
    | {"ssd": _flag, "vendor": _vendor, "wwn": _wwn},
    "virtio": _DRIVE | {"iothread": _flag, "ro": _flag},
    "efidisk": _FILE
    | {
        "efitype": values.one_of("2m", "4m"),
        "pre-enrolled-keys": _flag,
        "ms-cert": values.one_of("2011", "2023", "2023w"),
    },
    "tpmstate": {"file": _source, "size": values.size, "version": values.one_of("v1.2", "v2.0")},
    "unused": {"file": values.as_text(values.volume_id)},
}
_QEMU_ALIASES = {"volume": "file"} | {
    f"{what}_{way}_length": f"{what}_{way}_max_length" for what in ("bps", "iops") for way in ("rd", "wr")
}
_GEOMETRY = ("cyls", "heads", "secs", "trans", "snapshot", "format")


def _qemu(slot: str, value: str) -> Drive:
    bus = slot.rstrip("0123456789")
    options = values.property_string(value, _QEMU[bus], "file", _QEMU_ALIASES, required=("file",))
    _check_throttle(options)
    source = str(options.pop("file"))
    is_cdrom = options.get("media") == "cdrom"
    if is_cdrom and (bus == "virtio" or any(options.get(key) for key in _GEOMETRY)):
        raise Contradiction("a CD-ROM has no geometry, format or snapshot mode, and is none on virtio")
    kind: Kind
    if source in ("none", "cdrom"):
        kind = "empty"
    elif is_cdrom:
        kind = "cdrom"
    elif source.startswith("/"):
        kind = "device" if source.startswith("/dev/") else "file"
    else:
        kind = "volume"
    return _drive(slot, kind, source, options)


def _check_throttle(options: dict[str, Any]) -> None:
    given = {key for key in _THROTTLE if options.get(key)}
    for way in ("", "_rd", "_wr"):
        if f"bps{way}" in options and f"mbps{way}" in options:
            raise Contradiction(f"bps{way} and mbps{way} are the same limit: give one")
        if f"bps{way}" in options:  # even of 0: Proxmox makes of it that there is one
            given.add(f"mbps{way}")
    for way in ("", "_rd", "_wr"):
        for total in ("mbps", "iops"):
            if way and {total, f"{total}{way}"} <= given:
                raise Contradiction(f"{total} and {total}{way} exclude each other")
        for option, needs in (
            (f"mbps{way}_max", f"mbps{way}"),
            (f"bps{way}_max_length", f"mbps{way}_max"),
            (f"iops{way}_max_length", f"iops{way}_max"),
        ):
            if option in given and needs not in given:
                raise Contradiction(f"{option} requires {needs}")


_mount_path = values.matching(r"(?!\.\./)(?!.*/\.\.?(?:/|$)).*", "path without . and ..")
_OPTION = "(?:discard|lazytime|noatime|nodev|noexec|nosuid)"
_mount_options = values.matching(rf"{_OPTION}(?:;{_OPTION})*", "list of mount options by semicolon")
_MOUNT: dict[str, Check] = {
    "volume": _mount_path,
    "size": values.size,
    "acl": _flag,
    "mountoptions": _mount_options,
    "ro": _flag,
    "quota": _flag,
    "replicate": _flag,
    "shared": _flag,
    "keepattrs": _flag,
    "idmap": _text,
}
_LXC: dict[str, dict[str, Check]] = {
    "rootfs": _MOUNT,
    "mp": _MOUNT | {"backup": _flag, "mp": _mount_path},
    "unused": {"volume": values.as_text(values.volume_id)},
}


def _lxc(slot: str, value: str) -> Drive:
    bus = slot.rstrip("0123456789")
    required = ("volume", "mp") if bus == "mp" else ("volume",)
    options = values.property_string(value, _LXC[bus], "volume", required=required)
    source = str(options.pop("volume"))
    kind: Kind = "volume"
    if source.startswith("/"):
        kind = "device" if source.startswith("/dev/") else "bind"
    # the root is always in a backup, a mount point only when it says so
    options.setdefault("backup", bus == "rootfs")
    return _drive(slot, kind, source, options)


def _drive(slot: str, kind: Kind, source: str, options: dict[str, Any]) -> Drive:
    return Drive(
        slot,
        kind,
        source,
        options.pop("size", None),
        options.pop("backup", True),
        options.pop("replicate", True),
        options.pop("shared", False),
        options,
    )
