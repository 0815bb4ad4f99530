"""`make soak SCENARIO= N= SEED=`: counted runs, each a line in LEDGER.md as soon as it has ended.

Resumable: it goes on behind the runs that the ledger already has of this scenario and seed.
"""

import os
import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from lab.cluster import Cluster
from lab.faults import Faults, covering
from lab.lab import Lab

LEDGER = Path(__file__).with_name("LEDGER.md")


@click.command()
@click.argument("scenario", type=click.Choice(["replication"]))
@click.option("--count", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(scenario: str, count: int, seed: int) -> None:
    """Throw faults at a cluster in the lab until COUNT have been survived under SEED; stop at the first violation."""
    done = runs_done(LEDGER.read_text(), scenario, seed)
    if done >= count:
        click.echo(f"the ledger has {done} runs of {scenario} with seed {seed} already")
        return
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "soak"))
    cluster = Cluster(lab)
    try:
        lab.up(2)
        cluster.start()
        faults = Faults(cluster, seed + done)
        faults.start()
        for number, kind in list(enumerate(covering(seed, count, list(faults.kinds)), 1))[done:]:
            began = time.monotonic()
            try:
                outcome = faults.one(kind)
            except AssertionError as error:
                record(scenario, seed, number, f"{kind}: FAILED: {str(error).splitlines()[0]}", began)
                raise
            text = f"{kind}: healthy after {outcome.seconds:.0f} s, {outcome.points} points whole, nothing sent in full"
            record(scenario, seed, number, text, began)
    finally:
        cluster.stop()
        lab.down()


def runs_done(ledger: str, scenario: str, seed: int) -> int:
    """How many runs the ledger has of a scenario with a seed."""
    return len(re.findall(rf"^\| \S+ \| \S+ \| {scenario} \| {seed} #", ledger, re.M))


def record(scenario: str, seed: int, number: int, outcome: str, began: float) -> None:
    """Add a line to the ledger."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    day = datetime.now(UTC).date()
    line = f"| {day} | {commit} | {scenario} | {seed} #{number} | {outcome} | {time.monotonic() - began:.0f} s |"
    click.echo(line)
    with LEDGER.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
