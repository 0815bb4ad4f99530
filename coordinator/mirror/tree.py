"""Reads `/etc/pve`, cheaply and again and again.

1. A file counts only once it has been the same in two looks: what is half written is not taken for what is meant.
2. A tree that could not be read as a whole says so, and nothing is concluded from what is missing in it.

pmxcfs gives no inotify, so every look lists the directories and stats the files; only files that changed are read, and
those that changed so lately that their time of change, in whole seconds there, could hide a second change.
"""

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLUSTER_FILES = (
    "storage.cfg",
    "user.cfg",
    "replication.cfg",
    "datacenter.cfg",
    "corosync.conf",
    "ha/resources.cfg",
    "ha/rules.cfg",
)
GUEST_DIRECTORIES = ("qemu-server", "lxc")
LARGEST_FILE = 1 << 20  # bytes; pmxcfs itself refuses larger ones

_MEMBERS = ".members"
_RECENT = 2 * 10**9  # nanoseconds


@dataclass(frozen=True)
class Tree:
    """The files that matter, by their path below the root.

    `complete`: all that is there was read, and no file is about to change. `writable`: the cluster had its quorum;
    without it the files may be old.
    """

    files: Mapping[str, bytes]
    complete: bool
    writable: bool
    problems: tuple[str, ...] = ()

    def guests(self) -> Iterator[str]:
        """The paths of guests' files."""
        return (path for path in self.files if path.startswith("nodes/"))


@dataclass(frozen=True)
class _Stamp:
    """What differs when a file does; `changed` in nanoseconds since 1970."""

    inode: int
    size: int
    changed: int


@dataclass(frozen=True)
class _Content:
    stamp: _Stamp
    data: bytes
    recent: bool  # it was read so soon after its last change that it has to be read again


@dataclass
class TreeReader:
    """Reads a tree; remembers what it saw, so that looking again costs little. Not for several threads at once."""

    root: Path
    _seen: dict[str, _Stamp] = field(default_factory=dict)
    _read: dict[str, _Content] = field(default_factory=dict)

    def look(self, afresh: bool = False) -> Tree:
        """Look once. A file that is new or changed since the last look is left as it was, or out, until the next.

        `afresh`: read every file again, whatever its time of change says (another node's clock wrote it).
        """
        problems: list[str] = []
        stamps = self._stamps(problems)
        settled = True
        files: dict[str, bytes] = {}
        for path, stamp in stamps.items():
            known = self._read.get(path)
            if known is None or known.stamp != stamp or known.recent or afresh:
                if self._seen.get(path) == stamp:
                    known = self._take(path, stamp, problems) or known
                else:
                    settled = False
            if known is not None:
                files[path] = known.data
        self._seen = stamps
        if not problems:
            self._read = {path: known for path, known in self._read.items() if path in stamps}
        complete = settled and not problems and "storage.cfg" in files and self._has_nodes()
        return Tree(files, complete, self.is_writable(), tuple(problems))

    def _take(self, path: str, stamp: _Stamp, problems: list[str]) -> _Content | None:
        try:
            with (self.root / path).open("rb") as file:
                data = file.read(LARGEST_FILE + 1)
                after = _stamp(os.fstat(file.fileno()))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            return None
        if len(data) > LARGEST_FILE:
            problems.append(f"{path}: larger than {LARGEST_FILE} bytes")
            return None
        if after != stamp or len(data) != stamp.size:
            problems.append(f"{path}: it changed while it was read")
            return None
        recent = abs(time.time_ns() - stamp.changed) < _RECENT
        self._read[path] = _Content(stamp, data, recent)
        return self._read[path]

    def _stamps(self, problems: list[str]) -> dict[str, _Stamp]:
        found: dict[str, _Stamp] = {}
        for path in CLUSTER_FILES:
            try:
                found[path] = _stamp((self.root / path).stat())
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
        try:
            nodes = self._nodes()
        except OSError as error:
            problems.append(f"nodes: {error.strerror}")
            return found
        for node in nodes:
            for kind in GUEST_DIRECTORIES:
                self._guests(f"nodes/{node}/{kind}", found, problems)
        return found

    def _nodes(self) -> list[str]:
        try:
            with os.scandir(self.root / "nodes") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def _has_nodes(self) -> bool:
        """Whether the tree is still there at the end of a look: an unmounted /etc/pve is an empty directory."""
        try:
            return bool(self._nodes())
        except OSError:
            return False

    def _guests(self, directory: str, found: dict[str, _Stamp], problems: list[str]) -> None:
        try:
            with os.scandir(self.root / directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.endswith(".conf") and entry.name.removesuffix(".conf").isdecimal():
                        found[f"{directory}/{entry.name}"] = _stamp(entry.stat())
        except FileNotFoundError:  # a node without guests of this kind; or a guest that left just now
            return
        except OSError as error:
            problems.append(f"{directory}: {error.strerror}")

    def is_writable(self) -> bool:
        """Whether the cluster has its quorum: pmxcfs takes the write permission away without it."""
        try:
            members = json.loads((self.root / _MEMBERS).read_bytes())
            if not members.get("cluster", {}).get("quorate", 1):
                return False
        except (OSError, ValueError, AttributeError):
            pass  # no cluster, or not pmxcfs: the permissions tell
        try:
            return bool(self.root.stat().st_mode & stat.S_IWUSR) and not os.statvfs(self.root).f_flag & os.ST_RDONLY
        except OSError:
            return False


def _stamp(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
