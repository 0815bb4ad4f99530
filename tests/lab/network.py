"""The lab's network: a namespace of its own with one bridge, the LAN of the hosts.

Host N is 10.77.0.N; the namespace itself is 10.77.0.254, where etcd and the command line run. Nothing of it is
visible outside the namespace, and deleting the namespace deletes it all.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

GATEWAY = "10.77.0.254"
# A unicast address that no machine has: what is sent to it is lost on the wire, and the sender is told nothing.
NOWHERE = "52:54:00:dd:dd:dd"
_CLONE_NEWNET = 0x40000000


def address(number: int) -> str:
    """The LAN address of host `number`."""
    return f"10.77.0.{number}"


class Network:
    """The namespace `holdfast-<lab>`."""

    def __init__(self, lab: str) -> None:
        self.name = f"holdfast-{lab}"
        self._path = Path("/run/netns") / self.name

    def exists(self) -> bool:
        return self._path.exists()

    def create(self) -> None:
        _ip("netns", "add", self.name)
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "lan", "type", "bridge")
        self._ip("addr", "add", f"{GATEWAY}/24", "dev", "lan")
        self._ip("link", "set", "lan", "up")

    def add_tap(self, number: int) -> str:
        """The port of the LAN for host `number`, new; returns its interface's name."""
        tap = f"tap{number}"
        self._ip("tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr")
        self._ip("link", "set", tap, "master", "lan", "up")
        return tap

    def misdirect(self, number: int) -> None:
        """Lose what the namespace sends to host `number`."""
        self._ip("neigh", "replace", address(number), "lladdr", NOWHERE, "dev", "lan", "nud", "permanent")

    def direct(self, number: int) -> None:
        """Undo `misdirect`."""
        self._ip("neigh", "del", address(number), "dev", "lan")

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv`, to be run inside the namespace."""
        return ["nsenter", f"--net={self._path}", "--", *argv]

    def enter(self) -> None:
        """Move this thread, and the threads and children it starts from now on, into the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with self._path.open() as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {self.name}")

    def delete(self) -> None:
        """End every process in the namespace, except this one and its parents, and remove it with all its links."""
        if not self.exists():
            return
        spared = _self_and_parents()
        deadline = time.monotonic() + 10
        while inside := self._processes() - spared:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {sorted(inside)} do not leave the namespace {self.name}")
            for pid in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for tap in [link for link in self._ip("-br", "link").split() if link.startswith("tap")]:
            self._ip("link", "del", tap)
        _ip("netns", "del", self.name)

    def _processes(self) -> set[int]:
        # Not `ip netns pids`: run from inside, it counts itself.
        inode, pids = self._path.stat().st_ino, set()
        for link in Path("/proc").glob("[1-9]*/ns/net"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if link.stat().st_ino == inode:
                    pids.add(int(link.parts[2]))
        return pids

    def _ip(self, *arguments: str) -> str:
        return _ip("-n", self.name, *arguments)


def _ip(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def _self_and_parents() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        # The name in the second field may hold spaces and parentheses; the parent follows the last one's state.
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids
