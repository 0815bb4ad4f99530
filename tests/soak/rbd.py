"""Scenario `rbd`: ten faults a run, thrown at a guest of three images on a real Ceph; each run on its own clusters."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from integration.ceph.faults import Faults, Outcome, stage
from lab.faults import covering

FAULTS = 10
RPO = 20.0
"""Seconds."""


def run(seed: int, first: int, last: int, record: Callable[[int, str, float], None]) -> None:
    """Runs `first` to `last`."""
    for number in range(first, last + 1):
        began = time.monotonic()
        outcomes: list[Outcome] = []
        try:
            with (
                tempfile.TemporaryDirectory(prefix="hf-soak-") as folder,
                stage(Path(folder), seed + number, RPO) as faults,
            ):
                _throw(faults, seed + number, outcomes)
        except AssertionError as error:
            record(number, f"{_told(outcomes)}; then FAILED: {(str(error) or repr(error)).splitlines()[0]}", began)
            raise
        record(number, f"{_told(outcomes)}; nothing mixed, sent in full or left over", began)


def _throw(faults: Faults, seed: int, outcomes: list[Outcome]) -> None:
    for kind in covering(seed, FAULTS, list(faults.kinds)):
        outcome = faults.one(kind)
        outcomes.append(outcome)
        click.echo(
            f"{kind}: lag under the RPO after {outcome.seconds:.0f} s,"
            f" {outcome.points} points of one instant, {outcome.unsaid} that do not say so"
        )
    faults.finish()


def _told(outcomes: list[Outcome]) -> str:
    kinds = Counter(outcome.fault for outcome in outcomes)
    named = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in sorted(kinds.items()))
    slowest = max((outcome.seconds for outcome in outcomes), default=0)
    whole, unsaid = sum(outcome.points for outcome in outcomes), sum(outcome.unsaid for outcome in outcomes)
    return (
        f"{len(outcomes)} faults ({named}): lag under the RPO after {slowest:.0f} s at most,"
        f" {whole} points read, {unsaid} not said to be of one instant"
    )
