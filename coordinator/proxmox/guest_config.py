"""Guest files: `nodes/<node>/qemu-server/<vmid>.conf` and `nodes/<node>/lxc/<vmid>.conf`.

Source of the rules: the behaviour of PVE::QemuServer (parse_vm_config) and PVE::LXC::Config (parse_pct_config). The
file's bytes are kept. Of the options only those that concern disks and placement are checked; every other one is kept
as it stands.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from urllib.parse import unquote_to_bytes

from . import drives, sections, values
from .drives import Drive, GuestType
from .sections import Finding
from .values import ValueRefused

_BLANK = re.compile(r"\s*", re.ASCII)
_SNAPSHOT = re.compile(r"\[([a-zA-Z][a-zA-Z0-9_\-]+)\]\s*", re.ASCII)
_QEMU_PENDING = re.compile(r"\[PENDING\]\s*", re.ASCII | re.IGNORECASE)
_LXC_PENDING = re.compile(r"\[pve:pending\]\s*", re.ASCII | re.IGNORECASE)
_SPECIAL = re.compile(r"\[special:(cloudinit|fleecing)\]\s*", re.ASCII | re.IGNORECASE)
_UNKNOWN = re.compile(r"\[([^\]]*)\]\s*", re.ASCII)
_DESCRIPTION = re.compile(r"description:\s*(.*\S)\s*", re.ASCII)
_SNAPSTATE = re.compile(r".*snapstate:\s*(prepare|delete)\s*", re.ASCII)
_DELETE = re.compile(r"delete:\s*(.*\S)\s*", re.ASCII)
_OPTION: dict[GuestType, re.Pattern[str]] = {
    "qemu": re.compile(r"([a-z][a-z_\-]*[0-9]*):\s*(.+?)\s*", re.ASCII),
    "lxc": re.compile(r"([a-z][a-z_]*[0-9]*):\s*(.+?)\s*", re.ASCII),
}
_LXC_RAW = re.compile(r"(lxc\.[a-z0-9_\-.]+)(?::|\s*=)\s*(.*?)\s*", re.ASCII)
_BOOLEANS = ("template", "protection", "onboot", "unprivileged")


class GuestFileError(ValueError):
    """A file that cannot be a guest's: its name or type does not tell."""


@dataclass
class Part:
    """One section of a guest's file: the current configuration, what is pending, or a snapshot."""

    options: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    lxc: list[tuple[str, str]] = field(default_factory=list)  # raw settings of LXC, in order
    drives: dict[str, Drive] = field(default_factory=dict)

    def flag(self, key: str) -> bool:
        """Whether a boolean option is set."""
        return values.loose_boolean(self.options.get(key, "0")) is True


@dataclass
class GuestConfig:
    """A parsed guest file."""

    type: GuestType
    vmid: int
    lines: list[str]
    digest: str
    current: Part = field(default_factory=Part)
    pending: Part = field(default_factory=Part)
    snapshots: dict[str, Part] = field(default_factory=dict)
    special: dict[str, Part] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)

    @classmethod
    def parse(cls, guest: GuestType, vmid: int, data: bytes) -> "GuestConfig":
        """Read a guest's file. Nothing in it is an error: what Proxmox would pass over is in `warnings`."""
        text = sections.decode(data)
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        config = cls(guest, vmid, text.split("\n"), digest)
        _Reader(config).read()
        return config

    def render(self) -> bytes:
        """Return the file's bytes."""
        return sections.encode("\n".join(self.lines))

    @property
    def name(self) -> str | None:
        """The VM's name or the container's host name."""
        return self.current.options.get("name" if self.type == "qemu" else "hostname")

    @property
    def tags(self) -> tuple[str, ...]:
        """The guest's tags, in the file's order."""
        return tuple(dict.fromkeys(values.split_list(self.current.options.get("tags", ""))))

    @property
    def lock(self) -> str | None:
        """What holds the guest's lock: `backup`, `migrate`, `snapshot` …"""
        return self.current.options.get("lock")

    @property
    def parent(self) -> str | None:
        """The snapshot that the current state descends from."""
        return self.current.options.get("parent")

    @property
    def is_template(self) -> bool:
        """Whether guests are cloned from it instead of it being started."""
        return self.current.flag("template")

    def devices(self) -> Iterator[tuple[str, str]]:
        """Yield the devices of the node that the guest is given: slot and value."""
        for key, value in self.current.options.items():
            if drives.is_device_slot(self.type, key):
                yield key, value


def identify(path: PurePath, data: bytes) -> tuple[GuestType, int]:
    """Tell a guest's type and VMID from its file's path, the type from the content if need be.

    Raises GuestFileError if the name is no VMID.
    """
    match = re.fullmatch(r"([0-9]{1,9})\.conf", path.name)
    if match is None:
        raise GuestFileError(f"{str(path)!r} is not named for a guest: VMID.conf")
    parent = path.parent.name
    if parent in ("qemu-server", "lxc"):
        return ("qemu" if parent == "qemu-server" else "lxc"), int(match[1])
    return ("lxc" if re.search(rb"^rootfs:", data, re.MULTILINE) else "qemu"), int(match[1])


class _Reader:
    """Takes a file line by line; `part` is where the lines go now, None where they go nowhere."""

    def __init__(self, config: GuestConfig) -> None:
        self.config = config
        self.part: Part | None = config.current
        self.is_special = False
        self.description: str | None = None
        self.line = 0

    def read(self) -> None:
        for number, line in enumerate(self.config.lines, 1):
            self.line = number
            if not _BLANK.fullmatch(line) and not self._section(line) and self.part is not None:
                self._take(self.part, line)
        self._finish_description()

    def _warn(self, message: str) -> None:
        self.config.warnings.append(Finding(self.line, message))

    def _finish_description(self) -> None:
        if self.description is not None and self.part is not None:
            self.part.description = self.description.rstrip()
        self.description = None

    def _section(self, line: str) -> bool:
        config = self.config
        if not line.startswith("["):
            return False
        was_special, self.is_special = self.is_special, False
        if (_QEMU_PENDING if config.type == "qemu" else _LXC_PENDING).fullmatch(line):
            self._finish_description()
            if config.pending.options:
                self._warn("duplicate section: pending")
            self.part = config.pending = Part()
        elif config.type == "qemu" and (special := _SPECIAL.fullmatch(line)):
            self._finish_description()
            if special[1] in config.special:
                self._warn(f"duplicate special section: {special[1]}")
            self.part = config.special[special[1]] = Part()
            self.is_special = True
        elif snapshot := _SNAPSHOT.fullmatch(line):
            self._finish_description()
            if snapshot[1] in config.snapshots:
                self._warn(f"duplicate snapshot section: {snapshot[1]}")
            self.part = config.snapshots[snapshot[1]] = Part()
        elif config.type == "qemu" and (unknown := _UNKNOWN.fullmatch(line)):
            self._finish_description()
            self._warn(f"skipping unknown section: {unknown[1]!r}")
            self.part = None
        else:
            self.is_special = was_special
            return False
        return True

    def _take(self, part: Part, line: str) -> None:
        if line.startswith("#"):
            self.description = (self.description or "") + _decoded(line[1:]) + "\n"
        elif self.config.type == "lxc" and (raw := _LXC_RAW.fullmatch(line)):
            part.lxc.append((raw[1], raw[2]))
        elif match := _DESCRIPTION.fullmatch(line):
            self.description = (self.description or "") + _decoded(match[1])
        elif match := _SNAPSTATE.fullmatch(line):
            if part is not self.config.current:
                part.options["snapstate"] = match[1]
        elif match := _DELETE.fullmatch(line):
            if part is self.config.pending:
                part.options["delete"] = match[1]
            else:
                self._warn("property 'delete' is only allowed in the pending section")
        elif match := _OPTION[self.config.type].fullmatch(line):
            self._option(part, match[1], match[2])
        else:
            self._warn(f"ignored line: {line}")

    def _option(self, part: Part, key: str, value: str) -> None:
        guest = self.config.type
        if guest == "qemu" and key == "cdrom":
            key = "ide2"
        if self.is_special:
            part.options[key] = value
            return
        try:
            if drives.is_disk_slot(guest, key):
                part.drives[key] = drives.parse(guest, key, value)
            elif key == "vmstate":
                part.drives[key] = drives.vmstate(value)
            elif key in _BOOLEANS and values.loose_boolean(value) is None:
                raise ValueRefused(f"{value!r} is no boolean")
        except ValueRefused as error:
            self._warn(f"unable to parse value of {key!r}: {error}")
            if guest == "qemu" and not isinstance(error, drives.Contradiction):
                return
            # the text is kept, in place of an earlier one: for a container whatever is wrong with it
            part.drives.pop(key, None)
        part.options[key] = value


def _decoded(text: str) -> str:
    """Undo the URL encoding of descriptions."""
    return unquote_to_bytes(sections.encode(text)).decode("utf-8", "replace")
