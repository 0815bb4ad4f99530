"""Runs a command with the rights that a unit of systemd leaves it: capabilities, NoNewPrivileges, system calls.

Usage: under_unit.py UNIT COMMAND ARGS... What else a unit says (file systems, devices, namespaces) is not applied.
"""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ERRNO = 0x00050000 | errno.EPERM
"""SCMP_ACT_ERRNO(EPERM), as `SystemCallErrorNumber=EPERM` has it."""
_ALLOW = 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24


def settings(unit: Path, name: str) -> list[str]:
    """The words of every line `name=…` of a unit."""
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [word for key, _, value in lines if key == name for word in value.split()]


def calls(group: str) -> Iterator[str]:
    """The system calls in a group such as @system-service."""
    argv = ["systemd-analyze", "--no-pager", "syscall-filter", group]
    for word in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[1:]:
        name = word.strip()
        if name.startswith("@"):
            yield from calls(name)
        elif name and not name.startswith("#"):
            yield name


def allow_only(names: set[str]) -> None:
    """By libseccomp, as systemd does it."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO))
    for name in sorted(names):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and seccomp.seccomp_rule_add(context, _ALLOW, number, 0):
            raise OSError(f"{name} cannot be allowed")
    if seccomp.seccomp_load(context):
        raise OSError("the filter cannot be loaded")


def keep_capabilities(names: set[str]) -> None:
    """Drop all others from the bounding set; those of the process follow at the next exec."""
    libc, last = ctypes.CDLL(None, use_errno=True), int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    libcap = ctypes.CDLL("libcap.so.2")
    libcap.cap_to_name.restype = ctypes.c_char_p
    for number in range(last + 1):
        if libcap.cap_to_name(number).decode().upper() not in names and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    """Become the command."""
    unit = Path(sys.argv[1])
    words = settings(unit, "SystemCallFilter")
    allowed = {call for word in words for call in (calls(word) if word.startswith("@") else [word])}
    keep_capabilities(set(settings(unit, "CapabilityBoundingSet")))
    allow_only(allowed)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
