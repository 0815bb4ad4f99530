"""A container as a cgroup v2: freezing it (kernel's cgroup-v2.rst, `cgroup.freeze`) and syncing what it has mounted."""

import ctypes
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

_POLL = 0.002
"""Seconds between looks at whether every process has stopped."""


class CgroupError(Exception):
    """The container cannot be frozen or synced; the message says why."""


class Cgroup:
    """One container's cgroup, with everything below it."""

    def __init__(self, path: Path) -> None:
        """CgroupError where it cannot be frozen; FileNotFoundError where there is none: the container is off."""
        self._path = path
        if not path.is_dir():
            raise FileNotFoundError(path)
        if not (path / "cgroup.freeze").exists():
            raise CgroupError(f"{path} has no cgroup.freeze: it is no cgroup of version 2")

    def wanted(self) -> bool:
        """Whether somebody has asked for it to be frozen."""
        return (self._path / "cgroup.freeze").read_text().strip() == "1"

    def frozen(self) -> bool:
        """Whether no process of it runs."""
        return "frozen 1" in (self._path / "cgroup.events").read_text().splitlines()

    def freeze(self, deadline: float) -> None:
        """Stop every process of it. CgroupError if some run still at `deadline` (monotonic)."""
        (self._path / "cgroup.freeze").write_text("1")
        while not self.frozen():
            if time.monotonic() >= deadline:
                raise CgroupError(f"{self._path}: a process did not stop in time; is it stuck in the kernel?")
            time.sleep(_POLL)

    def thaw(self) -> None:
        """Let them go on."""
        (self._path / "cgroup.freeze").write_text("0")

    def processes(self) -> list[int]:
        """Of it and of every cgroup below it."""
        found = []
        for file in self._path.glob("**/cgroup.procs"):
            try:
                found += [int(pid) for pid in file.read_text().split()]
            except OSError:  # it has just gone
                continue
        return sorted(found)

    def mounts(self, datasets: Collection[str], devices: Mapping[str, str]) -> list[str]:
        """Paths, as this process reaches them, below which the container has these file systems mounted.

        A dataset of ZFS is the source of its mount; of others, `devices` tells by the device's number (MAJOR:MINOR)
        which they are. CgroupError where one is not found: whether what was written to it is on disk could not be told.
        """
        seen: dict[tuple[str, str], str] = {}
        for pid in (*self.processes()[:1], os.getpid()):
            try:
                lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            except OSError:  # it has just ended
                continue
            for line in lines:
                before, _, after = line.partition(" - ")
                fields, source = before.split(" "), after.split(" ")[1]
                dataset = devices.get(fields[2], source)
                if dataset in datasets and (dataset, fields[2]) not in seen:
                    seen[dataset, fields[2]] = f"/proc/{pid}/root{fields[4]}".encode().decode("unicode_escape")
        if unseen := sorted(set(datasets) - {dataset for dataset, _ in seen}):
            raise CgroupError(f"{', '.join(unseen)} is not mounted in the container or the host: it cannot be synced")
        return sorted(seen.values())


def sync(paths: Collection[str], deadline: float) -> None:
    """syncfs(2) of each path's file system. CgroupError if it has not ended by `deadline` (monotonic).

    In a thread: nothing interrupts a sync, and the container must not stay frozen for as long as one takes.
    """
    failed: list[str] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                failed.append(f"{path}: {error}")
                continue
            if libc.syncfs(descriptor):
                failed.append(f"{path}: {os.strerror(ctypes.get_errno())}")
            os.close(descriptor)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise CgroupError("what the container had written was not on disk in time")
    if failed:
        raise CgroupError(f"syncfs {failed[0]}")
