"""Guests: writers that put one counter on all their disks in turn, and the recorder of what they were told is written.

A round fsyncs counter n to disk A, then B, then C, so at any instant A >= B >= C >= A - 1. A finished round is
acknowledged to the recorder, which stands outside of everything that can fail.
"""

import asyncio
import bisect
from dataclasses import dataclass, field

from .loop import Process, current
from .world import Machine, World

GAP = (0.002, 0.05)
"""Seconds between the disks of a round."""
BOUND = 1.0
"""Seconds for which a guest is paused at most."""


@dataclass(slots=True)
class Pace:
    """How a guest writes: seconds between rounds, bytes a disk, and (start, end) of times when it rests."""

    every: float
    count: int
    rests: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class SimGuest:
    """A guest that runs on one machine whenever that has power."""

    world: World
    vmid: int
    kind: str
    machine: Machine
    pace: Pace
    disks: dict[str, str] = field(default_factory=dict)
    """Slot → dataset, in the order in which they are written."""
    still: dict[str, str] = field(default_factory=dict)
    """Slot → dataset of disks that are never written."""
    times: list[float] = field(default_factory=list)
    counters: list[int] = field(default_factory=list)
    """Acknowledged: when, and which counter."""
    retired: dict[str, str] = field(default_factory=dict)
    """Slot → dataset of a disk that was taken away."""
    off: bool = False
    """Whether somebody has shut it down."""
    _life: int = 0
    _paused: bool = False
    _kept: list[tuple[int, int, int]] = field(default_factory=list)
    """Writes that a pause holds up."""

    def pause(self) -> None:
        """Stand still."""
        self._paused = True

    def resume(self) -> None:
        """Go on where it stood."""
        self._paused = False
        kept, self._kept = self._kept, []
        for write in kept:
            self._write(*write)

    def boot(self) -> None:
        """Start writing, after what a power cut left: a torn round is done again, as real software would."""
        storage = self.machine.storage
        if self.off or any(storage.dataset(name) is None for name in self.disks.values()):  # it cannot be started
            return
        self._life += 1
        first = next(iter(self.disks.values()))
        counter = storage.there(first).image.counter
        for name in self.disks.values():
            if storage.there(name).image.counter < counter:
                storage.write(name, counter, self.pace.count)
        self._again(counter, self._life)

    def halt(self) -> None:
        """Lose power."""
        self._life += 1
        self._paused = False
        self._kept.clear()

    def _again(self, counter: int, life: int) -> None:
        wait = self.pace.every * (0.5 + self.world.rng.random())
        at = self.world.now + wait
        for start, end in self.pace.rests:
            if start <= at < end:
                wait += end - at
        self.world.loop.after(wait, self._write, counter + 1, 0, life)

    def _write(self, counter: int, index: int, life: int) -> None:
        if life != self._life:
            return
        if self._paused:
            self._kept.append((counter, index, life))
            return
        storage = self.machine.storage
        names = list(self.disks.values())
        if storage.stuck(names[min(index, len(names) - 1)]):
            self.world.loop.after(1.0, self._write, counter, index, life)
            return
        if index < len(names):
            if self.world.rng.random() < 0.1:
                storage.write(names[index], None, self.pace.count // 2)
            storage.write(names[index], counter, self.pace.count)
            self.world.loop.after(self.world.some(*GAP), self._write, counter, index + 1, life)
            return
        self.times.append(self.world.now)
        self.counters.append(counter)
        self._again(counter, life)

    def add_disk(self, slot: str, dataset: str) -> None:
        """Plug a disk in, last in the order, holding what the one before it holds."""
        storage = self.machine.storage
        if storage.dataset(dataset) is None:
            storage.create(dataset, "volume" if self.kind == "qemu" else "filesystem", 1 << 30)
        counter = storage.there(next(reversed(self.disks.values()))).image.counter
        storage.write(dataset, counter, 4096)
        self.disks[slot] = dataset

    def forget_after(self, counter: int) -> None:
        """It was rolled back, as its people wanted: what came later does not count any more."""
        index = bisect.bisect_right(self.counters, counter)
        del self.counters[index:], self.times[index:]

    def acknowledged(self, at: float) -> int:
        """The newest counter that was acknowledged at a moment; 0 before the first."""
        index = bisect.bisect_right(self.times, at)
        return self.counters[index - 1] if index else 0

    def stale_since(self, counter: int) -> float | None:
        """When the first counter after this one was acknowledged; None: it is the newest."""
        index = bisect.bisect_right(self.counters, counter)
        return self.times[index] if index < len(self.counters) else None


class SimPause:
    """The child process that pauses a guest (`agent.guests.child`): it goes on while the agent is stopped."""

    def __init__(self, world: World, guest: SimGuest) -> None:
        process = current()
        assert process is not None
        self._process: Process = process
        self._world = world
        self._guest = guest
        self._began = world.now
        self._over = False
        self._held: str | None = None
        self.seconds = 0.0
        process.children[self] = self.end
        guest.pause()
        world.tell(process.name, "pause", vmid=guest.vmid)
        world.loop.after(BOUND, self._expire)

    def _expire(self) -> None:
        if not self._over:
            self._held = "the snapshots were not taken within the bound"
            self.end()

    def end(self) -> None:
        """Its stdin is closed, or the bound has passed: the guest goes on."""
        if not self._over:
            self._over = True
            self.seconds = self._world.now - self._began
            self._process.children.pop(self, None)
            self._world.tell(self._process.name, "resume", vmid=self._guest.vmid)
            self._guest.resume()

    async def resume(self) -> str | None:
        self._world.step("resume", "before")
        done: asyncio.Future[None] = self._world.loop.create_future()

        def apply() -> None:
            self.end()
            if self._process.alive:
                self._world.stepped("resume", "after", self._process)
                if not done.done():
                    done.set_result(None)

        self._world.loop.after(self._world.some(0.002, 0.02), apply)
        await done
        return self._held
