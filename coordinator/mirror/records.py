"""What a tree of Proxmox's files says, as records. Pure; nothing secret passes.

A file or section that makes no valid record is reported, and its name is `unreadable`: the last good record of that
name stays in force, neither replaced nor removed.
"""

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from holdfast.coordinator.mirror.tree import Tree
from holdfast.coordinator.model.guest import Disk, Guest
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.policy import ProtectionPolicy, Target
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.desired import describe
from holdfast.coordinator.proxmox import storage_config
from holdfast.coordinator.proxmox.drives import Drive
from holdfast.coordinator.proxmox.guest_config import GuestConfig, GuestFileError, identify
from holdfast.coordinator.proxmox.replication import ReplicationConfig
from holdfast.coordinator.proxmox.storage_config import StorageConfig, StorageConfigError
from holdfast.coordinator.proxmox.storage_types import SECRETS, TYPES
from holdfast.coordinator.proxmox.users import UserConfig
from pydantic import ValidationError

MEGABYTE = 1_000_000  # bytes; pvesr counts its rate in these

_SECRET_NAME = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
# a VM's cloud-init password, in any section of its file
_SECRET_LINE = re.compile(r"^[ \t]*cipassword:.*\n?", re.MULTILINE)
_NODE_ADDRESS = re.compile(r"node\s*\{([^{}]*)\}")


@dataclass
class Records:
    """Records by folder and name, what was unreadable, and what to tell about it."""

    found: dict[str, dict[str, Record]] = field(default_factory=lambda: {"storage": {}, "guests": {}})
    unreadable: dict[str, set[str]] = field(default_factory=lambda: {"storage": set(), "guests": set()})
    problems: list[str] = field(default_factory=list)

    def take(self, folder: str, name: str, make: type[Record], fields: Mapping[str, Any], where: str) -> None:
        """Add a record, or report why there is none."""
        try:
            self.found.setdefault(folder, {})[name] = make.model_validate(fields)
        except ValidationError as error:
            self.refuse(folder, name, f"{where}: {describe(error)}")

    def refuse(self, folder: str, name: str, problem: str) -> None:
        """Report a record that cannot be made."""
        self.found.setdefault(folder, {}).pop(name, None)
        self.unreadable.setdefault(folder, set()).add(name)
        self.problems.append(problem)


def mirrored(tree: Tree) -> Records:
    """Return the storages and guests of a tree."""
    records = Records()
    _storages(tree.files.get("storage.cfg", b""), records)
    pools = UserConfig.parse(tree.files.get("user.cfg", b"")).pool_of
    where: dict[str, str] = {}
    for path in sorted(tree.guests()):
        name = posixpath.basename(path).removesuffix(".conf")
        if name in where:
            records.refuse("guests", name, f"guest {name} is in two places, {where[name]} and {path}: neither is taken")
            continue
        where[name] = path
        _guest(path, tree.files[path], pools, records)
    return records


def imported(tree: Tree) -> Records:
    """Return all that is worth importing once: what is mirrored, nodes, and a policy for each replication job."""
    records = mirrored(tree)
    _nodes(tree.files.get("corosync.conf", b"").decode("utf-8", "replace"), records)
    for job in ReplicationConfig.parse(tree.files.get("replication.cfg", b"")).jobs.values():
        if job.disabled or job.remove:
            state = "disabled" if job.disabled else "being removed"
            records.problems.append(f"replication.cfg: job {job.id} is {state}: no policy is made of it")
            continue
        target = {"node": job.target, "bandwidth": None if job.rate is None else int(job.rate * MEGABYTE)}
        fields = {
            "selector": Selector(vmid=(job.guest,)),
            "targets": (Target.model_validate(target),),
            "schedule": job.schedule,
        }
        records.take("policies", f"pvesr-{job.id}", ProtectionPolicy, fields, f"replication.cfg: job {job.id}")
    return records


def _storages(data: bytes, records: Records) -> None:
    config = StorageConfig.parse(data)
    records.problems += [f"storage.cfg:{finding.line}: {finding.message}" for finding in config.warnings]
    for lost in config.errors:
        if lost.id not in config.storages:
            records.unreadable["storage"].add(lost.id)
    for found in config.storages.values():
        records.take("storage", found.id, Storage, storage_fields(found), f"storage.cfg:{found.line}")


def storage_fields(found: storage_config.Storage) -> dict[str, Any]:
    """Return a storage's record without its secrets; flags are 1 and 0, as in the file."""
    properties = {
        key: _text(value)
        for key, value in found.properties.items()
        if key not in SECRETS and not (found.known is None and _SECRET_NAME.search(key))
    }
    return {
        "type": found.type,
        "nodes": None if found.nodes is None else tuple(sorted(found.nodes)),
        "content": tuple(sorted(found.content)),
        "shared": found.shared,
        "disabled": found.disabled,
        "properties": {key: _clean(value) for key, value in sorted(properties.items())},
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    return str(int(value)) if isinstance(value, bool) else "" if value is None else str(value)


def _clean(text: str) -> str:
    """Text that JSON can hold: bytes that are no UTF-8 come out as U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _guest(path: str, data: bytes, pools: Mapping[int, str], records: Records) -> None:
    name = posixpath.basename(path).removesuffix(".conf")
    guest, problems = _guest_record(path, data, pools.get(int(name)) if name.isdecimal() else None)
    if guest is None:
        records.refuse("guests", name, "; ".join(problems))
        return
    records.problems += problems
    records.found["guests"][name] = guest


@lru_cache(maxsize=20_000)  # of thousands of guests one changes at a time
def _guest_record(path: str, data: bytes, pool: str | None) -> tuple[Guest | None, tuple[str, ...]]:
    try:
        kind, vmid = identify(PurePosixPath(path), data)
    except GuestFileError as error:
        return None, (str(error),)
    config = GuestConfig.parse(kind, vmid, data)
    problems = tuple(f"{path}:{finding.line}: {finding.message}" for finding in config.warnings)
    fields = {
        "type": kind,
        "node": path.split("/")[1],
        "name": _clean(config.name or ""),
        "disks": disks(config.current.drives.values()),
        "tags": config.tags,
        "pool": pool,
        "definition": without_secrets(data.decode("utf-8", "replace")),
    }
    try:
        return Guest.model_validate(fields), problems
    except ValidationError as error:
        return None, (*problems, f"{path}: {describe(error)}")


def disks(drives: Iterable[Drive]) -> dict[str, Disk | dict[str, Any]]:
    """Return the slots that hold volumes; a volume under two names (a leftover `unused`) counts once."""
    found: dict[str, Disk | dict[str, Any]] = {}
    volumes: set[str] = set()
    for drive in sorted(drives, key=lambda drive: drive.slot.startswith("unused")):
        if drive.kind == "volume" and drive.source not in volumes:
            volumes.add(drive.source)
            found[drive.slot] = {"volume": drive.source, "size": drive.size or None, "replicate": drive.replicate}
    return dict(sorted(found.items()))


def without_secrets(definition: str) -> str:
    """Return a guest's file without the password that cloud-init sets."""
    return _SECRET_LINE.sub("", definition)


def _nodes(corosync: str, records: Records) -> None:
    for block in _NODE_ADDRESS.findall(corosync):
        options = dict(re.findall(r"^\s*(\w+):[ \t]*(\S+)", block, re.MULTILINE))
        name, address = options.get("name"), options.get("ring0_addr")
        if name and address:
            records.take("nodes", name, Node, {"address": address}, "corosync.conf")


def render_storages(
    existing: bytes, storages: Mapping[str, Storage], unreadable: Collection[str] = ()
) -> tuple[bytes, list[str]]:
    """Return a storage.cfg that says what the records say, for a node without Proxmox, and what it cannot say.

    Comments are kept, and the sections of records that are `unreadable` or that Proxmox would not read back.
    """
    config = StorageConfig.parse(existing)
    problems = []
    for name in [name for name, found in config.storages.items() if found.line]:
        if name not in storages and name not in unreadable:
            config = config.without_section(name)
    for name, wanted in sorted(storages.items()):
        current = config.storages.get(name)
        if current is not None and Storage.model_validate(storage_fields(current)) == wanted:
            continue
        try:
            config = config.with_section(name, wanted.type, _section(wanted))
        except StorageConfigError as error:
            problems.append(str(error))
    return config.render(), problems


def _section(wanted: Storage) -> dict[str, str | None]:
    lines: dict[str, str | None] = dict(wanted.properties)
    if wanted.content:
        lines["content"] = ",".join(wanted.content)
    if wanted.nodes is not None:
        lines["nodes"] = ",".join(wanted.nodes)
    known = TYPES.get(wanted.type)
    if wanted.shared and (known is None or known.sharing == "settable"):
        lines["shared"] = "1"
    if wanted.disabled:
        lines["disable"] = None
    return {key: value if value != "" else None for key, value in sorted(lines.items())}
