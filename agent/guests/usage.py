"""Which processes use a guest's disks, whatever started them: told by the kernel's own tables (proc(5))."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path


def users(datasets: Collection[str]) -> list[int]:
    """Processes of this machine that have one of these zvols open, or stand on one of these file systems.

    PermissionError where this process may not look at every other one: then nothing can be told.
    """
    devices, mounts = _devices(datasets), _mounted(datasets)
    if not devices and not mounts:
        return []
    return sorted(pid for pid in _processes() if pid != os.getpid() and _uses(pid, devices, mounts))


def name(pid: int) -> str:
    """What a process calls itself, with its id."""
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})"
    except OSError:
        return str(pid)


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def _devices(datasets: Collection[str]) -> set[int]:
    found = set()
    for dataset in datasets:
        try:
            found.add(os.stat(f"/dev/zvol/{dataset}").st_rdev)
        except OSError:  # no zvol, or one without a device: nobody can have it open
            continue
    return found


def _mounted(datasets: Collection[str]) -> set[int]:
    """Device numbers of the mounted ones, in whatever namespace they are mounted."""
    found = set()
    for pid in _processes():
        try:
            lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            fields, _, of = line.partition(" - ")
            if of.split(" ")[1:2] and of.split(" ")[1] in datasets:
                major, _, minor = fields.split(" ")[2].partition(":")
                found.add(os.makedev(int(major), int(minor)))
    return found


def _uses(pid: int, devices: set[int], mounts: set[int]) -> bool:
    for path in _references(pid):
        try:
            found = os.stat(path)
        except PermissionError:
            raise
        except OSError:  # a kernel thread's, or it has just been closed
            continue
        if found.st_dev in mounts or (stat.S_ISBLK(found.st_mode) and found.st_rdev in devices):
            return True
    return False


def _references(pid: int) -> Iterator[str]:
    yield f"/proc/{pid}/root"
    yield f"/proc/{pid}/cwd"
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        raise
    except OSError:  # it has ended
        return
    for descriptor in descriptors:
        yield f"/proc/{pid}/fd/{descriptor}"
