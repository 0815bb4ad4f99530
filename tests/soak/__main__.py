"""`make soak SCENARIO= N= SEED=`: counted runs, each a line in LEDGER.md as soon as it has ended.

Resumable: it goes on behind the runs that the ledger already has of this scenario and seed.
"""

import functools
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from soak import rbd, replication

Record = Callable[[int, str, float], None]
"""A run's number, its outcome and when it began (monotonic)."""

LEDGER = Path(__file__).with_name("LEDGER.md")
ROOT = LEDGER.parents[2]

SCENARIOS: dict[str, Callable[[int, int, int, Record], None]] = {"replication": replication.run, "rbd": rbd.run}
"""Name → what does the runs number A up to B of a seed, and records each as it ends."""


@click.command()
@click.argument("scenario", type=click.Choice(list(SCENARIOS)))
@click.option("--count", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(scenario: str, count: int, seed: int) -> None:
    """Do runs of a scenario until COUNT have been survived under SEED; stop at the first violation."""
    done = runs_done(LEDGER.read_text(), scenario, seed)
    if done >= count:
        click.echo(f"the ledger has {done} runs of {scenario} with seed {seed} already")
        return
    SCENARIOS[scenario](seed, done + 1, count, functools.partial(record, scenario, seed))


def runs_done(ledger: str, scenario: str, seed: int) -> int:
    """How many runs the ledger has of a scenario with a seed."""
    return len(re.findall(rf"^\| \S+ \| \S+ \| {scenario} \| {seed} #", ledger, re.M))


def record(scenario: str, seed: int, number: int, outcome: str, began: float) -> None:
    """Add a line to the ledger."""
    changed = _git("status", "--porcelain", "--", ":/", f":(exclude,top){LEDGER.relative_to(ROOT)}")
    commit = _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    day = datetime.now(UTC).date()
    line = f"| {day} | {commit} | {scenario} | {seed} #{number} | {outcome} | {time.monotonic() - began:.0f} s |"
    click.echo(line)
    with LEDGER.open("a") as file:
        file.write(line + "\n")


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
