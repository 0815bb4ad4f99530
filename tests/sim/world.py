"""Everything of one run: true time, the machines, the transcript, the tally of steps, and the Host port."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol

from holdfast.agent.ports import GuestHere, Outcome, PauseRefused
from holdfast.agent.ports import Pause as PortPause

from .loop import Process, VirtualLoop, current
from .zfs import Audit, Storage

BIRTH = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""True wall-clock time at the start of every run."""
TXG = 5.0
"""Seconds: zfs_txg_timeout."""


class Violation(AssertionError):
    """An invariant does not hold; `check` is its name."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check


@dataclass(slots=True)
class Machine:
    """A node: its power, its clock, its disks, and the processes on it."""

    name: str
    storage: Storage
    rate: float = 1.0
    jump: float = 0.0
    """Seconds by which its wall clock is off."""
    powered: bool = True
    booted: float = 0.0
    processes: list[Process] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    stuck: list[Callable[[], None]] = field(default_factory=list)
    """Commands that wait for a suspended pool."""
    failing: int = 0
    """Storage commands that are going to fail."""
    mute: float = 0.0
    """True time until which no guest's monitor answers."""
    users: Callable[[int], tuple[str, ...]] = lambda vmid: ()
    """VMID → the processes that use its disks."""

    def fails(self) -> bool:
        """Whether the next command does."""
        fails = self.failing > 0
        self.failing -= fails
        return fails


class World:
    """Shared by all models of one run."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.loop = VirtualLoop()
        self.rng = random.Random(seed)
        self.machines: dict[str, Machine] = {}
        self.audit = Audit()
        self.on_step: Callable[[str, str, Process], None] = lambda step, phase, process: None
        self.steps: Counter[str] = Counter()
        self.transcript: list[str] = []
        self.traced = trace
        """Whether anybody reads the transcript."""
        self.violations: list[Violation] = []

    @property
    def now(self) -> float:
        """True time in seconds."""
        return self.loop.now

    def wall(self, machine: Machine | None = None) -> datetime:
        """Wall-clock time on a machine; None: the true one."""
        if machine is None:
            return BIRTH + timedelta(seconds=self.now)
        return BIRTH + timedelta(seconds=machine.booted + (self.now - machine.booted) * machine.rate + machine.jump)

    def tell(self, who: str, what: str, **details: object) -> None:
        """Add a line to the transcript."""
        if self.traced:
            said = "".join(f" {k}={v}" for k, v in details.items())
            self.transcript.append(f"{self.now:10.3f}  {who:<6} {what}{said}")

    def violated(self, check: str, what: str) -> None:
        """Note that an invariant does not hold; the run ends at once."""
        violation = Violation(check, what)
        self.violations.append(violation)
        self.tell("CHECK", str(violation))
        self.loop.stop()

    def step(self, name: str, phase: str) -> None:
        """A process is about to do something, or has just done it: faults strike here."""
        process = current()
        assert process is not None
        self.stepped(name, phase, process)

    def stepped(self, name: str, phase: str, process: Process) -> None:
        """As `step`, said by the world on behalf of a process."""
        if phase == "before":
            self.steps[name] += 1
        self.on_step(name, phase, process)

    def some(self, low: float, high: float) -> float:
        """A number of seconds in between."""
        return low + (high - low) * self.rng.random()

    def spawn(self, machine: Machine, name: str, coro: Coroutine[Any, Any, Any]) -> Process:
        """Start a process on a machine."""
        process = Process(name, machine.rate, machine.booted)
        machine.processes.append(process)
        self.loop.start(process, coro)
        return process


class Pause(PortPause, Protocol):
    """As the port has it, with what becomes of it when it is left."""

    def end(self) -> None: ...


class SimHost:
    """The Host port."""

    def __init__(self, world: World, machine: Machine, pause: Callable[[int], Pause] | None = None) -> None:
        self._world = world
        self._machine = machine
        self._pause = pause

    @property
    def zone(self) -> tzinfo:
        return UTC

    def now(self) -> datetime:
        return self._world.wall(self._machine)

    def monotonic(self) -> float:
        return (self._world.now - self._machine.booted) * self._machine.rate

    async def blocking(self, call: Callable[[], Outcome]) -> Outcome:
        return call()

    def load(self, name: str) -> bytes | None:
        return self._machine.files.get(name)

    async def save(self, name: str, data: bytes) -> None:
        process = current()
        assert process is not None
        self._world.step("save", "before")
        done = self._world.loop.create_future()

        def apply() -> None:
            if process.alive:
                self._machine.files[name] = data
                self._world.stepped("save", "after", process)
                if not done.done():
                    done.set_result(None)

        self._world.loop.after(self._world.some(0.005, 0.03), apply)
        await done

    def notify(self, state: str) -> None:
        """There is no service manager."""

    @asynccontextmanager
    async def pause(self, guest: GuestHere) -> AsyncIterator[Pause]:
        """A monitor that does not answer is met now and then."""
        self._world.step("pause", "before")
        await asyncio.sleep(self._world.some(0.02, 0.1))
        if self._pause is None or self._machine.mute > self._world.now:
            raise PauseRefused("no answer from its monitor")
        pause = self._pause(guest.vmid)
        try:
            self._world.step("pause", "after")
            yield pause
        finally:
            pause.end()

    async def users(self, guest: GuestHere) -> tuple[str, ...]:
        return self._machine.users(guest.vmid)


class WitnessHost(SimHost):
    """A coordinator's: what it keeps is only ever compared, so no fault is aimed at its writing."""

    async def save(self, name: str, data: bytes) -> None:
        self._machine.files[name] = data
