"""What can be paused: a VM by its monitor, a container by its cgroup, and a guest that is off, which needs nothing.

A VM's file systems are frozen by its guest agent first. A container's are synced while it is frozen, which is as good.
"""

import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from holdfast.agent.guests import usage
from holdfast.agent.guests.cgroup import Cgroup, CgroupError, sync
from holdfast.agent.guests.krbd import mapped
from holdfast.agent.guests.qga import AgentError, GuestAgent
from holdfast.agent.guests.qmp import Monitor, MonitorError

GREETING = 5.0
"""Seconds for QEMU to answer at all: another client may be served first."""
PATIENCE = 60.0
"""Seconds for which a guest's going on is waited for, once it has been asked for."""
PRESYNC = 10.0
"""Seconds for what a container had written before it is frozen."""

_STILL = frozenset({"paused", "prelaunch", "shutdown", "postmigrate", "io-error", "internal-error", "guest-panicked"})
"""QEMU's run states (qapi/run-state.json) in which a guest stands still until somebody says `cont`."""


class CannotPause(Exception):
    """Why a guest was not paused, or did not stay so."""


class Subject(Protocol):
    """A guest, found and spoken to: nothing that takes long is left for the pause itself."""

    def pause(self, deadline: float) -> None:
        """Stop it, and have on disk what it wrote. CannotPause if that is not so by `deadline` (monotonic)."""

    def moved(self) -> str | None:
        """Why it may have written since `pause`; None: it has not."""

    def resume(self) -> str | None:
        """Let it go on, if it was this pause that stopped it. CannotPause if it does not.

        Returns what it says only now about why the pause did not hold.
        """


class Machine:
    """A VM. `stop` also completes what is in flight and flushes its disks (QEMU's vm_stop)."""

    def __init__(self, path: str, agent: str | None = None) -> None:
        """OSError where no QEMU listens; CannotPause where it cannot be paused now, or frozen by `agent`'s socket."""
        self._agent: GuestAgent | None = None
        try:
            self._monitor = Monitor(path, GREETING)
            status = self._status(time.monotonic() + GREETING)
        except MonitorError as error:
            raise CannotPause(str(error)) from None
        self._ran = status == "running"
        self._paused = status == "paused"
        if not self._ran and status not in _STILL:
            raise CannotPause(f"{path}: the VM is in state {status}")
        if agent is not None:
            self._meet(agent, status)

    def _meet(self, path: str, status: str) -> None:
        if not self._ran:
            raise CannotPause(f"the VM is in state {status}, in which its agent cannot freeze anything")
        try:
            agent = GuestAgent(path, GREETING)
            frozen = agent.frozen(time.monotonic() + GREETING)
        except OSError as error:
            raise CannotPause(f"{path}: {error.strerror} (has the VM a guest agent's port?)") from None
        except AgentError as error:
            raise CannotPause(str(error)) from None
        if frozen:
            raise CannotPause("its file systems are frozen already, by somebody else; a backup?")
        self._agent = agent

    def _status(self, deadline: float) -> str:
        return str(self._monitor.execute("query-status", deadline)["status"])

    def pause(self, deadline: float) -> None:
        """Freeze, then `stop`: a guest that stands still cannot thaw. A freeze may take half of the time."""
        try:
            if self._agent is not None:
                self._agent.freeze((time.monotonic() + deadline) / 2)
            self._monitor.execute("stop", deadline)
        except (AgentError, MonitorError) as error:
            raise CannotPause(str(error)) from None
        self._monitor.events.clear()

    def left_paused(self) -> None:
        """It stands still because an earlier pause was killed."""
        self._ran = self._paused

    def moved(self) -> str | None:
        """Somebody else may have said `cont`, and even `stop` again: QEMU tells every client."""
        try:
            status = self._status(time.monotonic() + GREETING)
        except MonitorError as error:
            return str(error)
        if status not in _STILL or "RESUME" in self._monitor.events:
            return "somebody resumed the VM meanwhile"
        return None

    def resume(self) -> str | None:
        """`cont`. The connection stays open until it is answered: QEMU drops what a client that left had asked."""
        try:
            if self._ran:
                self._monitor.execute("cont", time.monotonic() + PATIENCE)
            return self._thaw(self._agent) if self._agent is not None else None
        except (AgentError, MonitorError) as error:
            raise CannotPause(str(error)) from None
        finally:
            self._monitor.close()

    @staticmethod
    def _thaw(agent: GuestAgent) -> str | None:
        """What is frozen after the pause was so all the while: only this connection speaks to the agent."""
        deadline = time.monotonic() + PATIENCE
        try:
            frozen = agent.frozen(deadline)
            agent.thaw(deadline)
        finally:
            agent.close()
        return None if frozen else "its file systems were thawed meanwhile, from inside the VM"


class Container:
    """A container. Frozen processes leave what they have written in memory: so it is synced, once beforehand."""

    def __init__(self, path: str, datasets: Collection[str], images: Mapping[str, str]) -> None:
        """FileNotFoundError where it does not run; CannotPause where it cannot be paused now."""
        try:
            self._cgroup = Cgroup(Path(path))
            self._ran = not self._cgroup.wanted()
            self._mounts = self._cgroup.mounts(datasets, mapped(images))
            sync(self._mounts, time.monotonic() + PRESYNC)
        except CgroupError as error:
            raise CannotPause(str(error)) from None

    def pause(self, deadline: float) -> None:
        """Freeze, then sync."""
        try:
            self._cgroup.freeze(deadline)
            sync(self._mounts, deadline)
        except CgroupError as error:
            raise CannotPause(str(error)) from None

    def moved(self) -> str | None:
        """Somebody else may have thawed it."""
        try:
            still = self._cgroup.wanted() and self._cgroup.frozen()
        except OSError as error:
            return str(error)
        return None if still else "somebody thawed the container meanwhile"

    def resume(self) -> str | None:
        """Thaw; a container that was stopped meanwhile has no cgroup any more."""
        if self._ran:
            with contextlib.suppress(FileNotFoundError):
                self._cgroup.thaw()
        return None


class Off:
    """A guest of which no process is found. That it is off is proven by its disks: nobody uses them."""

    def __init__(self, datasets: Collection[str], path: str, clients: Collection[str]) -> None:
        """CannotPause where somebody does; `clients`: who has those on shared storage open."""
        self._datasets = datasets
        if used := self._used():
            raise CannotPause(f"there is no {path}, yet {used}")
        if clients:
            raise CannotPause(f"there is no {path}, yet its images are open at {', '.join(sorted(clients))}")

    def _used(self) -> str | None:
        try:
            found = usage.users(self._datasets)
        except PermissionError as error:
            return f"who uses its disks could not be told: {error}"
        return f"its disks are used by {', '.join(map(usage.name, found[:5]))}" if found else None

    def pause(self, deadline: float) -> None:
        """Nothing to stop."""

    def moved(self) -> str | None:
        """It may have been started."""
        return self._used()

    def resume(self) -> str | None:
        """Nothing to let go on."""
        return None


def thaw(path: str) -> None:
    """Thaw what a pause that was killed has left frozen, by the agent's socket at `path`. CannotPause; OSError."""
    try:
        agent = GuestAgent(path, GREETING)
        try:
            agent.thaw(time.monotonic() + PATIENCE)
        finally:
            agent.close()
    except AgentError as error:
        raise CannotPause(str(error)) from None


def find(
    kind: str,
    path: str,
    datasets: Collection[str],
    agent: str | None = None,
    clients: Collection[str] = (),
    images: Mapping[str, str] = MappingProxyType({}),
) -> Subject:
    """The guest of which `path` is the monitor's socket (`qemu`) or the cgroup (`lxc`). CannotPause.

    `agent` is the socket of a VM's guest agent, where its file systems are to be frozen as well. `clients` have its
    disks on shared storage open. `images`: what the kernel calls those of `datasets` that are on RBD.
    """
    try:
        return Machine(path, agent) if kind == "qemu" else Container(path, datasets, images)
    except (FileNotFoundError, ConnectionRefusedError):
        return Off(datasets, path, clients)
    except OSError as error:
        raise CannotPause(f"{path}: {error}") from None
