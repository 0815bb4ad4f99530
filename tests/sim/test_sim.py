"""The simulator itself: its scenarios, that runs replay, that its checks turn red, and what its loop promises."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .ledger import ROOT
from .loop import Process, VirtualLoop
from .mutants import Mutant, attempt, every, mutate
from .run import run
from .scenario import missing, names, play
from .schedule import Schedule, draw
from .volumes import run as run_child


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", names())
def test_a_scenario_goes_as_told(name: str) -> None:
    outcome = play(name)
    assert outcome.violation is None
    assert missing(name, outcome) is None, "this line did not come in its turn"


def test_a_schedule_survives_its_file() -> None:
    for seed in range(50):
        assert Schedule.from_json(draw(seed).to_json()) == draw(seed)


@pytest.mark.timeout(120)
def test_a_seed_gives_the_same_transcript_whatever_the_hashes() -> None:
    told = []
    for hashes in ("0", "4711"):
        argv = [sys.executable, "-m", "tests.sim", "--seed", "2", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, check=True)
        told.append(done.stdout)
    assert told[0] == told[1]
    assert len(told[0].splitlines()) > 100


@pytest.mark.timeout(120)
def test_a_storage_that_takes_written_disks_for_idle_is_noticed() -> None:
    found = (run(draw(seed), faulty=frozenset({"reuse"})).violation for seed in range(300))
    assert any(violation is not None and violation.check == "no mixture" for violation in found)


def test_every_mutant_says_what_should_catch_it() -> None:
    assert len(every()) >= 8
    for mutant in every():
        assert mutant.check
        assert mutant.why
        assert mutant.patch or mutant.model


def test_every_mutant_applies_to_the_code_as_it_is(tmp_path: Path) -> None:
    for mutant in every():
        mutate(mutant, tmp_path / mutant.name)


@pytest.mark.parametrize("mutant", [m for m in every() if m.scenario], ids=lambda mutant: mutant.name)
def test_a_mutant_that_few_seeds_catch_is_caught_by_its_scenario(mutant: Mutant) -> None:
    verdict = attempt(mutant, scenario=mutant.scenario)
    assert verdict.caught, verdict.violation


def _on_a_loop() -> tuple[VirtualLoop, list[str]]:
    return VirtualLoop(), []


def test_a_killed_process_runs_no_finally() -> None:
    loop, done = _on_a_loop()

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            done.append("finally")

    process = Process("p")
    loop.start(process, work())
    loop.run(5)
    loop.kill(process)
    loop.run(20)
    assert done == []
    loop.discard()


def test_a_process_that_is_killed_at_a_step_starts_no_child_any_more() -> None:
    """It runs on until it next waits; what it started after its death went on for ever."""
    (loop, said), process = _on_a_loop(), Process("p")
    child: Any = SimpleNamespace(
        process=process, done=loop.create_future(), begin=lambda: said.append("began"), died=lambda: None
    )

    async def struck() -> None:
        loop.kill(process)
        await run_child(child)

    loop.start(process, struck())
    loop.run(1)
    assert said == []
    assert process.children == {}
    loop.discard()


def test_a_stopped_process_goes_on_where_it_was() -> None:
    loop, done = _on_a_loop()

    async def work() -> None:
        await asyncio.sleep(10)
        done.append(f"at {loop.now:.0f}")

    process = Process("p")
    loop.start(process, work())
    loop.run(5)
    process.stopped = True
    loop.run(60)
    assert done == []
    loop.go_on(process)
    loop.run(61)
    assert done == ["at 60"]
    loop.close()


def test_a_fast_clock_wakes_early() -> None:
    loop, done = _on_a_loop()

    async def work() -> None:
        async with asyncio.timeout(1000):
            await asyncio.sleep(101)
        done.append(f"at {loop.now:.1f}")

    loop.start(Process("p", rate=1.01), work())
    loop.run(200)
    assert done == ["at 100.0"]
    loop.close()
