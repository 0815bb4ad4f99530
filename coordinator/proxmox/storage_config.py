"""storage.cfg: what Proxmox makes of it, and writing it so that nothing else is lost.

Source of the rules: the behaviour of PVE::Storage::Plugin and PVE::SectionConfig. The file's bytes are kept:
`parse(data).render() == data`, comments, unknown types and unknown properties included. An edit touches the lines of
its own section only, and is refused if Proxmox would drop what it writes.

One thing differs from Proxmox on purpose: a section of an unknown type (a plugin of somebody else's) is kept and
reported, where a Proxmox without that plugin skips it. It does not take the place of a section that Proxmox knows.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import sections, values
from .sections import Finding, Section, SectionFile
from .storage_types import MOUNTED, TYPES, StorageType

LOCAL = "local"
LOCAL_PATH = "/var/lib/vz"
_LOCAL_CONTENT = frozenset({"backup", "images", "iso", "rootdir", "snippets", "vztmpl"})

_DIRECTORY_PATH = re.compile(r"/[-/a-zA-Z0-9_.@]+")


class StorageConfigError(ValueError):
    """An edit that Proxmox would not read back."""


@dataclass(frozen=True)
class Storage:
    """One storage as Proxmox would use it; `line` is its header's, 0 for the `local` that no file names."""

    id: str
    type: str
    line: int
    properties: Mapping[str, Any]  # without content, nodes, shared and disable
    content: frozenset[str]
    shared: bool
    nodes: frozenset[str] | None  # None: every node
    disabled: bool

    @property
    def known(self) -> StorageType | None:
        """The type's entry in the table; None for a type that is not Proxmox's own."""
        return TYPES.get(self.type)

    @property
    def formats(self) -> tuple[str, ...]:
        """Image formats, the default first."""
        formats = self.known.formats if self.known else ("raw",)
        if self.type == "lvm":
            return ("qcow2", "raw") if self.properties.get("snapshot-as-volume-chain") else ("raw",)
        default = self.properties.get("format", formats[0] if formats else "raw")
        return (default, *(name for name in formats if name != default))

    def on(self, node: str) -> bool:
        """Whether the storage is configured for a node."""
        return self.nodes is None or node in self.nodes


@dataclass(frozen=True)
class Lost:
    """A section that is not in force, and why."""

    line: int
    id: str
    message: str


@dataclass
class StorageConfig:
    """A parsed storage.cfg; `storages` is in the file's order."""

    file: SectionFile
    digest: str
    storages: dict[str, Storage] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)
    errors: list[Lost] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> "StorageConfig":
        """Read a storage.cfg. Nothing in it is an error: findings are in `warnings` and `errors`."""
        # the digest is Proxmox's own, by which it notices changes: no security rests on it
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        config = cls(sections.read(sections.decode(data)), digest)
        config.warnings.extend(config.file.ignored)
        for section in config.file.sections:
            config._take(section)
        config._settle_local()
        config.warnings.sort(key=lambda finding: finding.line)
        return config

    def render(self) -> bytes:
        """Return the file's bytes."""
        return sections.encode("\n".join(self.file.lines))

    def with_section(self, storage_id: str, type_name: str, properties: Mapping[str, str | None]) -> "StorageConfig":
        """Return the configuration with a section replaced or appended.

        Values are as the file has them; None writes the bare key. Raises StorageConfigError if Proxmox would drop the
        section, or one of the properties.
        """
        lines = [f"{type_name}: {storage_id}"]
        lines += [f"\t{key}" if value is None else f"\t{key} {value}" for key, value in properties.items()]
        if any("\n" in line or "\r" in line for line in lines):
            raise StorageConfigError(f"storage {storage_id!r}: a value contains a line feed")
        alone = StorageConfig.parse(sections.encode("\n".join(lines) + "\n"))
        complaints = [finding.message for finding in alone.warnings] if type_name in TYPES else []
        if complaints or storage_id not in alone.storages:
            raise StorageConfigError(f"storage {storage_id!r} is not written: {'; '.join(complaints)}")
        existing = [s for s in self.file.sections if s.id == storage_id]
        if not existing:
            kept = self.file.lines[:]
            while kept and not kept[-1].strip():
                kept.pop()
            return StorageConfig.parse(sections.encode("\n".join([*kept, *([""] if kept else []), *lines, "", ""])))
        # the last one is in force; what stands before it under the same name would come back if only this one changed
        return self._replaced(existing, {existing[-1].line: lines})

    def without_section(self, storage_id: str) -> "StorageConfig":
        """Return the configuration without any section of this ID."""
        return self._replaced([s for s in self.file.sections if s.id == storage_id], {})

    def _replaced(self, removed: list[Section], replacements: Mapping[int, list[str]]) -> "StorageConfig":
        lines = self.file.lines[:]
        for section in reversed(removed):
            start, end = section.line - 1, section.end - 1
            new = replacements.get(section.line)
            comments = [line for line in lines[start:end] if re.match(r"\s*#", line)]
            if new is None and end < len(lines) and lines[end] == "" and not comments:
                end += 1
            lines[start:end] = [*comments, *(new or [])]
        return StorageConfig.parse(sections.encode("\n".join(lines)))

    def _take(self, section: Section) -> None:
        try:
            values.storage_id(section.id)
        except values.ValueRefused as error:
            self._lose(section, str(error))
            return
        known = TYPES.get(section.type)
        if known is None:
            self.warnings.append(Finding(section.line, f"section {section.id!r}: unsupported type {section.type!r}"))
            earlier = self.storages.get(section.id)
            if earlier is None or earlier.known is None:
                self.storages.pop(section.id, None)
                self.storages[section.id] = _foreign(section)
            return
        self.warnings.extend(section.ignored)
        # a section that turns out to be unusable still takes the place of an earlier one of the same name
        self.storages.pop(section.id, None)
        taken, found = sections.take(section, known.checks())
        self.warnings.extend(found)
        try:
            self.storages[section.id] = self._storage(section, known, taken)
        except values.ValueRefused as error:
            self._lose(section, str(error))

    def _storage(self, section: Section, known: StorageType, taken: dict[str, Any]) -> Storage:
        if known.name in MOUNTED:
            taken.setdefault("path", f"/mnt/pve/{section.id}")
        for key in sorted(known.required):
            if key not in taken:
                raise values.ValueRefused(f"missing value for required option {key!r}")
        if known.name in ("dir", "btrfs"):
            if not _DIRECTORY_PATH.fullmatch(taken["path"]):
                raise values.ValueRefused(f"illegal path for directory storage: {taken['path']}")
            taken["path"] = _canonical(taken["path"])
        written = taken.pop("content", None)
        content = known.default_content if written is None else self._content(section, known, written)
        nodes = taken.pop("nodes", None)
        shared = bool(taken.pop("shared", False)) or known.sharing == "always"
        disabled = bool(taken.pop("disable", False))
        if "format" in taken and taken["format"] not in known.formats:
            self._drop_key(section, "format", f"storage does not support format {taken.pop('format')!r}")
        if "content-dirs" in taken:
            taken["content-dirs"] = self._content_directories(section, known, taken["content-dirs"])
        return Storage(
            section.id,
            section.type,
            section.line,
            taken,
            content,
            shared,
            None if nodes is None else frozenset(values.split_list(nodes)),
            disabled,
        )

    def _content(self, section: Section, known: StorageType, value: str) -> frozenset[str]:
        content = frozenset(values.split_list(value))
        for unsupported in sorted(content - known.content):
            self._drop_key(section, "content", f"storage does not support content type {unsupported!r}")
        content &= known.content
        if "none" in content and len(content) > 1:
            raise values.ValueRefused("unable to combine 'none' with other content types")
        if not content and "none" not in known.content:
            raise values.ValueRefused("storage does not support content type 'none'")
        return content

    def _content_directories(self, section: Section, known: StorageType, value: str) -> str:
        kept = []
        for override in values.split_list(value):
            content = override.partition("=")[0]
            if content in known.content:
                kept.append(override)
            else:
                self._drop_key(section, "content-dirs", f"storage does not support content type {content!r}")
        return ",".join(kept)

    def _settle_local(self) -> None:
        """`local` is always a directory at /var/lib/vz on every node."""
        local = self.storages.get(LOCAL)
        if local is None or local.type != "dir" or local.properties["path"] != LOCAL_PATH:
            if local is not None:
                message = f"'{LOCAL}' is always of type dir at {LOCAL_PATH}: the section is not used"
                self.warnings.append(Finding(local.line, message))
                self.errors.append(Lost(local.line, LOCAL, message))
            properties = {"path": LOCAL_PATH, "prune-backups": "keep-all=1"}
            default = Storage(LOCAL, "dir", 0, properties, _LOCAL_CONTENT, False, None, False)
            self.storages = {LOCAL: default} | {k: s for k, s in self.storages.items() if k != LOCAL}
        elif local.nodes is not None:
            self.warnings.append(Finding(local.line, f"'{LOCAL}' is on every node: its 'nodes' is not used"))
            self.storages[LOCAL] = Storage(
                LOCAL, "dir", local.line, local.properties, local.content, local.shared, None, local.disabled
            )

    def _drop_key(self, section: Section, key: str, reason: str) -> None:
        line = next((entry.line for entry in section.entries if entry.key == key), section.line)
        self.warnings.append(Finding(line, f"section {section.id!r}: {reason}"))

    def _lose(self, section: Section, reason: str) -> None:
        self.warnings.append(Finding(section.line, f"skip section {section.id!r}: {reason}"))
        self.errors.append(Lost(section.line, section.id, reason))


def _canonical(path: str) -> str:
    """Return an absolute path as Perl's File::Spec->canonpath does: `..` stays, except right below the root."""
    path = re.sub(r"(?:/\.)+(?:/|$)", "/", re.sub(r"/{2,}", "/", path))
    path = re.sub(r"^/\.\.$", "/", re.sub(r"^/(?:\.\./)+", "/", path))
    return path if path == "/" else path.removesuffix("/")


def _foreign(section: Section) -> Storage:
    """Keep a section of a type that we know nothing of: every property as it stands, lists where keys repeat."""
    properties: dict[str, Any] = {}
    for entry in section.entries:
        if entry.key not in properties:
            properties[entry.key] = entry.value
        elif isinstance(properties[entry.key], list):
            properties[entry.key].append(entry.value)
        else:
            properties[entry.key] = [properties[entry.key], entry.value]
    first = {entry.key: entry.value for entry in reversed(section.entries)}
    content = frozenset(values.split_list(first.get("content") or ""))
    nodes = values.split_list(first.get("nodes") or "")
    for key in ("content", "nodes", "shared", "disable"):
        properties.pop(key, None)
    return Storage(
        section.id,
        section.type,
        section.line,
        properties,
        content,
        _set(first, "shared"),
        frozenset(nodes) if nodes else None,
        _set(first, "disable"),
    )


def _set(first: Mapping[str, str | None], key: str) -> bool:
    return key in first and first[key] in (None, "1")
