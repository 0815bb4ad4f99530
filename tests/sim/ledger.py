"""Counted runs: many seeds over several processes, resumable, each run a line in tests/soak/LEDGER.md."""

import gc
import json
import multiprocessing
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .run import run
from .schedule import draw

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "tests" / "soak" / "LEDGER.md"
PROGRESS = ROOT / "build" / "sim"
BATCH = 50
SHARE = range(0, 4500)
"""Seeds that every test run has."""


@dataclass(slots=True)
class Tally:
    """What came out of a range of seeds."""

    runs: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    virtual: float = 0.0
    worst: float = 0.0
    """The longest time that a run took to settle, in virtual seconds."""

    def add(self, other: "Tally") -> None:
        self.runs += other.runs
        self.failures += other.failures
        self.reached += other.reached
        self.steps += other.steps
        self.virtual += other.virtual
        self.worst = max(self.worst, other.worst)


def batch(seeds: range) -> Tally:
    """Run a few seeds in this process."""
    tally = Tally()
    for seed in seeds:
        try:
            outcome = run(draw(seed))
        except Exception as error:
            tally.failures.append((seed, f"the simulator itself failed: {error!r}"))
            continue
        tally.runs += 1
        tally.reached += outcome.reached
        tally.steps += outcome.steps
        tally.virtual += outcome.lasted
        tally.worst = max(tally.worst, outcome.settled)
        if outcome.violation is not None:
            tally.failures.append((seed, str(outcome.violation)))
    return tally


def run_seeds(seeds: range, jobs: int) -> Iterator[tuple[range, Tally]]:
    """Run them in batches; each batch as it is done, in order."""
    batches = [range(start, min(start + BATCH, seeds.stop)) for start in range(seeds.start, seeds.stop, BATCH)]
    if jobs == 1:
        for each in batches:
            yield each, batch(each)
        return
    with multiprocessing.get_context("fork").Pool(jobs, initializer=gc.freeze) as pool:
        yield from zip(batches, pool.imap(batch, batches), strict=True)


class Progress:
    """How far a counted run of one commit has come, so that it can be taken up again."""

    def __init__(self, seeds: range) -> None:
        self._path = PROGRESS / f"{commit()}-{seeds.start}-{seeds.stop}.json"
        self.seconds = 0.0
        self.next = seeds.start

    def load(self) -> None:
        if self._path.exists():
            saved = json.loads(self._path.read_text())
            self.next, self.seconds = saved["next"], saved["seconds"]

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"next": self.next, "seconds": self.seconds}))

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def commit() -> str:
    """The commit that is checked out; `+` if there are changes on top."""
    short = _git("rev-parse", "--short", "HEAD")
    return f"{short}+" if _git("status", "--porcelain", "--", "agent", "coordinator", "tests/sim") else short


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def counted(seeds: range, jobs: int) -> Tally:
    """Run all seeds, from where an earlier run of this commit stopped, and write the ledger's line."""
    began_at = commit()  # what is loaded now is what runs, whatever is checked out meanwhile
    progress = Progress(seeds)
    progress.load()
    began = time.monotonic() - progress.seconds
    tally = Tally()
    tally.runs = progress.next - seeds.start
    for done, part in run_seeds(range(progress.next, seeds.stop), jobs):
        tally.add(part)
        progress.next, progress.seconds = done.stop, time.monotonic() - began
        progress.save()
        if part.failures:
            break
    outcome = "no violation" if not tally.failures else f"seed {tally.failures[0][0]}: {tally.failures[0][1]}"
    said = f"| {datetime.now(UTC):%Y-%m-%d} | {began_at} | sim | {seeds.start}..{progress.next - 1} |"
    said += f" {outcome} | {progress.seconds:.0f} s |\n"
    if not LEDGER.exists():
        LEDGER.parent.mkdir(parents=True, exist_ok=True)
        LEDGER.write_text(
            "# Counted runs\n\n| date | commit | scenario | seeds | outcome | duration |\n|---|---|---|---|---|---|\n"
        )
    with LEDGER.open("a") as file:
        file.write(said)
    progress.forget()
    return tally
