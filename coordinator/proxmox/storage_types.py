"""Proxmox's storage types as data: what each is called with, holds and can do.

Source: the plugins of pve-storage (PVE 8 and 9). The table is a union over versions: a type or property that one of
them knows is known here (glusterfs left with 9, drbd long before; both are still met).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from . import values
from .values import Check

Level = Literal["file", "block", "both", "import"]
Sharing = Literal["always", "settable", "never"]
State = Literal["current", "snap", "base"]
Feature = Literal["snapshot", "clone", "template", "copy", "sparseinit", "replicate", "rename"]
Features = dict[Feature, dict[State, frozenset[str]]]

# content types by the directory that holds them
CONTENT_DIRECTORIES = {
    "images": "images",
    "rootdir": "private",
    "iso": "template/iso",
    "vztmpl": "template/cache",
    "backup": "dump",
    "snippets": "snippets",
    "import": "import",
}


@dataclass(frozen=True)
class StorageType:
    """One storage type; `features` is what Proxmox does with it, `ours` what Holdfast does."""

    name: str
    level: Level
    sharing: Sharing
    content: frozenset[str]
    default_content: frozenset[str]
    formats: tuple[str, ...]  # the default first
    required: frozenset[str]
    optional: frozenset[str]
    fixed: frozenset[str]  # may not change once the storage exists
    features: Features
    ours: frozenset[Feature] = frozenset()

    def properties(self) -> frozenset[str]:
        """Return the names of all properties that a section of this type may have."""
        return self.required | self.optional

    def checks(self) -> dict[str, Check]:
        """Return what each property of this type may hold."""
        return {name: PROPERTIES[name] for name in self.properties()}

    def can(self, feature: Feature, state: State = "current", image_format: str = "raw") -> bool:
        """Whether Proxmox has the feature for a volume of this format, in this state."""
        return image_format in self.features.get(feature, {}).get(state, ())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _features(text: str, formats: str = "raw qcow2 vmdk subvol") -> Features:
    """Read `feature:state,state …`; a state may list its formats, `current=qcow2/raw`, else it holds for `formats`."""
    table: Features = {}
    for part in text.split():
        feature, _, states = part.partition(":")
        for state in states.split(","):
            name, _, only = state.partition("=")
            allowed = frozenset(only.split("/")) if only else frozenset(formats.split())
            table.setdefault(feature, {})[name] = allowed  # type: ignore[arg-type,index]
    return table


_CONTENT = frozenset(CONTENT_DIRECTORIES)


def _content_type(value: str) -> str:
    # `dir` takes every type, so what it does not take is no content type at all
    if value not in _CONTENT and value != "none":
        raise values.ValueRefused(f"{value!r} is no content type")
    return value


def _directory_override(value: str) -> str:
    content, _, directory = value.partition("=")
    _content_type(content)
    if not directory or ".." in directory or directory.endswith("."):
        raise values.ValueRefused(f"{value!r} is no directory override (content=relative/path)")
    if len(directory) >= 1023 or any(len(part) >= 255 for part in directory.split("/")):
        raise values.ValueRefused(f"{value[:60]!r}… is too long")
    return value


def _block_size(value: str) -> str:
    """A power of two from 512 to 16 MiB, `16k` or `1M` for short (checked since PVE 9.1)."""
    values.matching(r"[1-9][0-9]{0,8}[kKmM]?", "ZFS block size")(value)
    count = int(value.rstrip("kKmM")) * {"k": 1024, "m": 1024 * 1024}.get(value[-1].lower(), 1)
    if not 512 <= count <= 16 * 1024 * 1024 or count & (count - 1):
        raise values.ValueRefused(f"{value!r} is no ZFS block size: a power of two from 512 to 16M")
    return value


_flag = values.boolean
_text = values.text

# One definition for each name, whatever the type: so it is in Proxmox. Values keep their text except flags and counts.
PROPERTIES: dict[str, Check] = {
    "nodes": values.each(values.node),
    "content": values.each(_content_type),
    "disable": _flag,
    "shared": _flag,
    "maxfiles": values.integer(0),
    "prune-backups": values.prune_backups,
    "max-protected-backups": values.integer(-1),
    "subdir": values.path,
    "format": values.one_of("raw", "qcow2", "vmdk", "subvol"),
    "preallocation": values.one_of("off", "metadata", "falloc", "full"),
    "content-dirs": values.each(_directory_override),
    "options": values.matching(r"\S+", "list of mount options"),
    "port": values.integer(1, 65535),
    "snapshot-as-volume-chain": _flag,
    "path": values.path,
    "mkdir": _flag,
    "create-base-path": _flag,
    "create-subdirs": _flag,
    "is_mountpoint": _text,  # yes, no or a path
    "bwlimit": values.as_text(values.bandwidth_limits),
    "nocow": _flag,
    "export": values.path,
    "server": values.server,
    "share": _text,
    "password": values.at_most(256),
    "domain": values.at_most(256),
    "smbversion": values.one_of("default", "2.0", "2.1", "3", "3.0", "3.11"),
    "username": _text,
    "volume": _text,
    "server2": values.server,
    "transport": values.one_of("tcp", "rdma", "unix"),
    "fuse": _flag,
    "fs-name": values.matching(r"[A-Za-z][A-Za-z0-9_-]+", "configuration ID"),
    "monhost": values.each(values.portal),
    "pool": _text,
    "data-pool": _text,
    "namespace": _text,
    "authsupported": _text,
    "krbd": _flag,
    "keyring": _text,
    "vgname": values.matching(r"[A-Za-z0-9][A-Za-z0-9\-_.]*[A-Za-z0-9]", "LVM name"),
    "thinpool": values.matching(r"[A-Za-z0-9][A-Za-z0-9\-_.]*[A-Za-z0-9]", "LVM name"),
    "base": values.as_text(values.volume_id),
    "saferemove": _flag,
    "saferemove_throughput": _text,
    "saferemove-stepsize": values.one_of("1", "2", "4", "8", "16", "32"),
    "on-volume-remove": _text,
    "tagged_only": _flag,
    "blocksize": _block_size,
    "sparse": _flag,
    "mountpoint": values.path,
    "iscsiprovider": _text,
    "nowritecache": _flag,
    "comstar_tg": _text,
    "comstar_hg": _text,
    "lio_tpg": _text,
    "zfs-base-path": values.path,
    "portal": values.portal,
    "target": _text,
    "datastore": _text,
    "fingerprint": values.matching(r"([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}", "SHA-256 fingerprint"),
    "encryption-key": _text,
    "master-pubkey": _text,
    "skip-cert-verification": _flag,
    "redundancy": values.integer(1, 16),
}

# secrets: they never leave the node, whatever file they are found in
SECRETS = frozenset({"password", "keyring", "encryption-key", "master-pubkey"})

_COMMON = "nodes disable content"
_DIRECTORY = (
    f"{_COMMON} content-dirs maxfiles prune-backups max-protected-backups format mkdir create-base-path create-subdirs"
    " bwlimit preallocation"
)
_FILE_FEATURES = (
    "snapshot:current=qcow2,snap=qcow2 clone:base=qcow2/raw/vmdk template:current=qcow2/raw/vmdk/subvol"
    " copy:base=qcow2/raw/vmdk,current=qcow2/raw/vmdk,snap=qcow2"
    " sparseinit:base=qcow2/raw/vmdk,current=qcow2/raw/vmdk rename:current=qcow2/raw/vmdk"
)
_BTRFS_FEATURES = (
    "snapshot:current=qcow2/raw/subvol,snap=qcow2/raw/subvol"
    " clone:base=qcow2/raw/subvol/vmdk,current=raw,snap=raw template:current=qcow2/raw/vmdk/subvol"
    " copy:base=qcow2/raw/subvol/vmdk,current=qcow2/raw/subvol/vmdk,snap=qcow2/raw/subvol"
    " sparseinit:base=qcow2/raw/vmdk,current=qcow2/raw/vmdk rename:current=qcow2/raw/vmdk"
)


def _type(
    name: str,
    level: Level,
    *,
    shared: Sharing,
    content: str,
    default: str,
    formats: str = "raw",
    required: str = "",
    optional: str = "",
    not_fixed: str = "",
    also_fixed: str = "",
    features: str = "",
    ours: Iterable[Feature] = (),
) -> StorageType:
    needed = _words(required)
    return StorageType(
        name,
        level,
        shared,
        _words(content),
        _words(default),
        tuple(formats.split()),
        needed,
        _words(optional) - needed,
        needed - _words(not_fixed) | _words(also_fixed),
        _features(features),
        frozenset(ours),
    )


_ALL_CONTENT = "images rootdir vztmpl iso backup snippets import"

TYPES: dict[str, StorageType] = {
    entry.name: entry
    for entry in (
        _type(
            "dir",
            "file",
            shared="settable",
            content=f"{_ALL_CONTENT} none",
            default="images rootdir",
            formats="raw qcow2 vmdk subvol",
            required="path",
            optional=f"{_DIRECTORY} shared is_mountpoint snapshot-as-volume-chain",
            also_fixed="snapshot-as-volume-chain",
            features=_FILE_FEATURES,
        ),
        _type(
            "btrfs",
            "file",
            shared="settable",
            content=f"{_ALL_CONTENT} none",
            default="images rootdir",
            formats="raw subvol",
            required="path",
            optional=f"{_COMMON} shared maxfiles prune-backups max-protected-backups format is_mountpoint nocow mkdir"
            " create-base-path create-subdirs preallocation",
            features=_BTRFS_FEATURES,
        ),
        _type(
            "nfs",
            "file",
            shared="always",
            content=_ALL_CONTENT,
            default="images",
            formats="raw qcow2 vmdk",
            required="path server export",
            optional=f"{_DIRECTORY} options snapshot-as-volume-chain",
            also_fixed="snapshot-as-volume-chain",
            features=_FILE_FEATURES,
        ),
        _type(
            "cifs",
            "file",
            shared="always",
            content=_ALL_CONTENT,
            default="images",
            formats="raw qcow2 vmdk",
            required="path server share",
            optional=f"{_DIRECTORY} subdir username password domain smbversion options snapshot-as-volume-chain",
            also_fixed="snapshot-as-volume-chain",
            features=_FILE_FEATURES,
        ),
        _type(
            "glusterfs",
            "file",
            shared="always",
            content="images vztmpl iso backup snippets import",
            default="images",
            formats="raw qcow2 vmdk",
            required="path volume",
            optional=f"{_COMMON} server server2 transport maxfiles prune-backups max-protected-backups format mkdir"
            " create-base-path create-subdirs bwlimit preallocation",
            features=_FILE_FEATURES,
        ),
        _type(
            "cephfs",
            "file",
            shared="always",
            content="vztmpl iso backup snippets import",
            default="backup",
            formats="",
            required="path",
            optional=f"{_COMMON} content-dirs monhost subdir options username format mkdir create-base-path"
            " create-subdirs fuse bwlimit maxfiles keyring prune-backups max-protected-backups fs-name",
            features=_FILE_FEATURES,
        ),
        _type(
            "lvm",
            "block",
            shared="settable",
            content="images rootdir",
            default="images",
            formats="raw qcow2",
            required="vgname",
            optional=f"{_COMMON} shared saferemove saferemove_throughput saferemove-stepsize on-volume-remove base"
            " tagged_only bwlimit snapshot-as-volume-chain",
            also_fixed="base",
            features="copy:base=qcow2/raw,current=qcow2/raw,snap=qcow2 rename:current=qcow2/raw"
            " snapshot:current=qcow2,snap=qcow2",
        ),
        _type(
            "lvmthin",
            "block",
            shared="never",
            content="images rootdir",
            default="images rootdir",
            required="thinpool vgname",
            optional=f"{_COMMON} bwlimit",
            features="snapshot:current clone:base,snap template:current copy:base,current,snap"
            " sparseinit:base,current rename:current",
        ),
        _type(
            "zfspool",
            "both",
            shared="never",
            content="images rootdir",
            default="images rootdir",
            formats="raw subvol",
            required="pool",
            optional=f"{_COMMON} blocksize sparse bwlimit mountpoint",
            features="snapshot:current,snap clone:base template:current copy:base,current sparseinit:base,current"
            " replicate:base,current rename:current",
            ours=("snapshot", "replicate"),
        ),
        _type(
            "zfs",
            "block",
            shared="always",
            content="images",
            default="images",
            required="portal target pool blocksize iscsiprovider",
            optional=f"{_COMMON} nowritecache sparse comstar_hg comstar_tg lio_tpg zfs-base-path bwlimit",
            features="snapshot:current,snap clone:base template:current copy:base,current",
        ),
        _type(
            "iscsi",
            "block",
            shared="always",
            content="images none",
            default="images",
            required="portal target",
            optional=f"{_COMMON} bwlimit",
            features="copy:current",
        ),
        _type(
            "iscsidirect",
            "block",
            shared="always",
            content="images none",
            default="images",
            required="portal target",
            optional=f"{_COMMON} bwlimit",
            features="copy:current",
        ),
        _type(
            "rbd",
            "block",
            shared="always",
            content="images rootdir",
            default="images",
            optional=f"{_COMMON} monhost pool data-pool namespace username krbd keyring bwlimit",
            features="snapshot:current,snap clone:base,snap template:current copy:base,current,snap"
            " sparseinit:base,current rename:current",
        ),
        _type(
            "pbs",
            "both",
            shared="always",
            content="backup none",
            default="backup",
            required="server datastore",
            optional=f"{_COMMON} namespace port username password encryption-key master-pubkey prune-backups"
            " max-protected-backups fingerprint",
        ),
        _type(
            "esxi",
            "import",
            shared="settable",
            content="import",
            default="import",
            formats="raw qcow2 vmdk",
            required="server username",
            optional=f"{_COMMON} shared password skip-cert-verification port",
            not_fixed="server username",
            features="copy:current",
        ),
        _type(
            "drbd",
            "block",
            shared="always",
            content="images rootdir",
            default="images",
            optional=f"{_COMMON} redundancy",
            features="copy:base,current",
        ),
    )
}

# types that live in a directory of their own under /mnt/pve unless they say where
MOUNTED = frozenset({"nfs", "cifs", "cephfs", "glusterfs"})
