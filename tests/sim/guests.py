"""Guests: writers that put one counter on all their disks in turn, and the recorder of what they were told is written.

A round fsyncs counter n to disk A, then B, then C, so at any instant A >= B >= C >= A - 1. A finished round is
acknowledged to the recorder, which stands outside of everything that can fail.
"""

import bisect
from dataclasses import dataclass, field

from .world import Machine, World

GAP = (0.002, 0.05)
"""Seconds between the disks of a round."""


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
    _life: int = 0

    def boot(self) -> None:
        """Start writing, after what a power cut left: a torn round is done again, as real software would."""
        self._life += 1
        datasets = self.machine.storage.datasets
        first = next(iter(self.disks.values()))
        counter = datasets[first].image.counter
        for name in self.disks.values():
            if datasets[name].image.counter < counter:
                self.machine.storage.write(name, counter, self.pace.count)
        self._again(counter, self._life)

    def halt(self) -> None:
        """Lose power."""
        self._life += 1

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
        storage = self.machine.storage
        if storage.suspended:
            self.world.loop.after(1.0, self._write, counter, index, life)
            return
        names = list(self.disks.values())
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
        datasets = self.machine.storage.datasets
        if dataset not in datasets:
            self.machine.storage.create(dataset, "volume" if self.kind == "qemu" else "filesystem", 1 << 30)
        counter = datasets[next(reversed(self.disks.values()))].image.counter
        self.machine.storage.write(dataset, counter, 4096)
        self.disks[slot] = dataset

    def acknowledged(self, at: float) -> int:
        """The newest counter that was acknowledged at a moment; 0 before the first."""
        index = bisect.bisect_right(self.times, at)
        return self.counters[index - 1] if index else 0

    def stale_since(self, counter: int) -> float | None:
        """When the first counter after this one was acknowledged; None: it is the newest."""
        index = bisect.bisect_right(self.counters, counter)
        return self.times[index] if index < len(self.counters) else None
