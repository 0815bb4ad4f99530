"""The agent's side of pausing: starts the process that does it (`child.py`), and hears whether the pause held."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog
from holdfast.agent.ports import GuestHere, PauseRefused, VolumesError

log = structlog.get_logger()

_CHILD = (sys.executable, "-m", "holdfast.agent.guests.child")
_TIMEOUT = 120.0
"""Seconds: all that a child does is bounded by less, unless the kernel or a mount is stuck."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the child is given."""

    kind: str
    path: str
    """The monitor's socket, or the cgroup."""
    datasets: Sequence[str]
    bound: float
    """Seconds."""
    mark: str
    """The file that is there as long as the guest may be paused."""
    agent: str | None = None
    """The socket of a VM's guest agent, if its file systems are to be frozen."""
    clients: Sequence[str] = ()
    """Who has its disks on shared storage open."""
    images: Mapping[str, str] = field(default_factory=dict)
    """What the kernel calls a container's volumes on RBD."""


@dataclass(frozen=True)
class Places:
    """Where guests are found on this node; `{vmid}` stands for the VMID. The defaults are Proxmox's."""

    qmp: str = "/run/qemu-server/{vmid}.qmp"
    """QEMU's monitor (`-qmp unix:…` or `-mon mode=control`)."""
    cgroup: str = "/sys/fs/cgroup/lxc/{vmid}"
    marks: Path = Path("/run/holdfast/paused")
    agent: str = "/run/qemu-server/{vmid}.qga"
    """The socket at which the port of a VM's guest agent ends."""


class Pause:
    """A guest that stands still, for as long as the bound lets it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ending: asyncio.Task[str | None] | None = None
        self.seconds = 0.0
        """How long it stood still; known once it goes on."""

    async def resume(self) -> str | None:
        """Let it go on. None: it stood still from the beginning until now; else why that is not certain."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def _end(self) -> str | None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        said = await _read(self._process)
        if said and said.get("paused"):  # of which nobody has heard: the agent is being stopped
            said = await _read(self._process)
        await self._process.wait()
        if said is None or "held" not in said:
            return "the process that paused it was killed"
        self.seconds = float(said["seconds"])
        return None if said["held"] else str(said["why"])


class Pauser:
    """Pauses guests of this node."""

    def __init__(self, places: Places | None = None, bound: float = 1.0) -> None:
        """`bound`: seconds for which a guest may stand still at most."""
        self._places = places or Places()
        self._bound = bound

    def _order(self, guest: GuestHere) -> Order:
        place = self._places.qmp if guest.kind == "qemu" else self._places.cgroup
        mark = self._places.marks / f"{guest.vmid}.json"
        agent = self._places.agent.format(vmid=guest.vmid) if guest.freeze and guest.kind == "qemu" else None
        path, datasets = place.format(vmid=guest.vmid), list(guest.datasets)
        return Order(guest.kind, path, datasets, self._bound, str(mark), agent, guest.clients, guest.images)

    @asynccontextmanager
    async def pause(self, guest: GuestHere) -> AsyncIterator[Pause]:
        """The guest stands still inside the block. PauseRefused if it cannot be paused."""
        order = self._order(guest)
        await self._thaw(order)
        process = await _start("pause", order)
        pause = Pause(process)
        try:
            said = await _read(process) or {"why": "the process that pauses it was killed"}
            if not said.get("paused"):
                raise PauseRefused(str(said.get("refused") or said.get("why")))
            yield pause
        finally:
            # also when cancelled: the child lets the guest go on by itself, and a killed one leaves its mark
            await asyncio.shield(self._leave(pause, order))

    async def _leave(self, pause: Pause, order: Order) -> None:
        await pause.resume()
        await self._thaw(order)

    async def thaw_all(self) -> None:
        """Resume what an earlier life of the agent has left paused."""
        for mark in sorted(self._places.marks.glob("*.json")):
            try:
                order = Order(**orjson.loads(mark.read_bytes()))
            except (ValueError, TypeError) as error:
                log.error("a mark of a paused guest cannot be read", mark=str(mark), error=str(error))
                continue
            await self._thaw(order)

    async def users(self, guest: GuestHere) -> tuple[str, ...]:
        """The processes that use the guest's disks, by name and id. VolumesError if that cannot be told."""
        said = await _ask("users", self._order(guest))
        if said is None or "users" not in said:
            why = said["refused"] if said else "is a mount of it stuck?"
            raise VolumesError(f"who uses the disks of guest {guest.vmid} could not be told: {why}")
        return tuple(said["users"])

    async def _thaw(self, order: Order) -> None:
        """Resume a guest that a pause has left behind: its mark says so."""
        if not os.path.exists(order.mark):  # noqa: ASYNC240 - on /run, which is memory
            return
        said = await _ask("thaw", order)
        if said is None or "refused" in said:
            why = said["refused"] if said else "no answer"
            log.error("a guest may still be paused: resume it (qm resume, pct resume)", path=order.path, error=why)
        else:
            log.warning("resumed a guest that a killed pause had left", path=order.path)


async def _start(action: str, order: Order) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    argv = (*_CHILD, action, orjson.dumps(asdict(order)).decode())
    # a group of its own: a Ctrl-C on the agent's terminal is not for it
    return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, process_group=0)


async def _ask(action: str, order: Order) -> dict[str, Any] | None:
    """Its one answer; None if it gave none."""
    process = await _start(action, order)
    try:
        return await _read(process)
    finally:
        await asyncio.shield(process.wait())


async def _read(process: asyncio.subprocess.Process) -> dict[str, Any] | None:
    """What the child says next; None: it has ended. One that hangs is killed; its mark says what it was about."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_TIMEOUT):
            line = await process.stdout.readline()
    except TimeoutError:
        process.kill()
        return None
    return orjson.loads(line) if line.endswith(b"\n") else None
