"""Deliberate bugs, which the simulator must catch: patches in `mutants/`, tried on a copy of the code.

A patch begins with lines of `# check:` (what should catch it), `# why:` and, where the bug is in a channel program that
runs inside ZFS, `# model:` (which rule of the storage's model is switched off instead). One that only few seeds catch
says which kept `# scenario:` does; the tests play that, so that it does not lose its edge as the code changes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from .ledger import ROOT, SHARE

FOLDER = Path(__file__).parent / "mutants"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate bug."""

    name: str
    check: str
    why: str
    model: str
    scenario: str
    patch: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of it; `seeds` were run until `violation`."""

    mutant: Mutant
    seeds: int
    violation: str
    seconds: float

    @property
    def caught(self) -> bool:
        return bool(self.violation) and not self.violation.startswith("could not be tried")


def read(path: Path) -> Mutant:
    """Read a patch file."""
    text = path.read_text()
    head = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# "))
    patch = text[text.index("--- ") :] if "--- " in text else ""
    return Mutant(path.stem, head["check"], head["why"], head.get("model", ""), head.get("scenario", ""), patch)


def every() -> list[Mutant]:
    """All of them."""
    return [read(path) for path in sorted(FOLDER.glob("*.patch"))]


def mutate(mutant: Mutant, code: Path) -> None:
    """Make a copy of the code that has the bug."""
    for folder in ("agent", "coordinator", "proto"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant.patch:
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(code.parent.resolve())}  # in whatever repository it lies
        subprocess.run(["git", "apply", "-C1"], input=mutant.patch, text=True, check=True, cwd=code, env=alone)


def attempt(mutant: Mutant, *, scenario: str = "") -> Verdict:
    """Run seeds on mutated code until one fails; with `scenario`, that one alone."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        code = Path(place) / "holdfast"
        mutate(mutant, code)
        argv = [sys.executable, "-m", "tests.sim.mutants", str(0 if scenario else SHARE.stop), mutant.model, scenario]
        environment = {**os.environ, "PYTHONPATH": place}
        out = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if out.returncode:
        return Verdict(mutant, 0, f"could not be tried: {out.stderr[-300:]}", time.monotonic() - began)
    found = json.loads(out.stdout.splitlines()[-1])
    return Verdict(mutant, found["seeds"], found["violation"], time.monotonic() - began)


def table(names: tuple[str, ...], jobs: int) -> int:
    """Try them and print what became of each; 1 if one was not caught."""
    chosen = [m for m in every() if not names or m.name in names]
    missed = 0
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(attempt, chosen):
            missed += not verdict.caught
            said = " ".join(verdict.violation.split())[:90] if verdict.violation else "NOT CAUGHT"
            click.echo(f"{verdict.mutant.name:<28} {verdict.seeds:>5} seeds {verdict.seconds:>5.0f} s  {said}")
    click.echo(f"{len(chosen) - missed} of {len(chosen)} mutants caught")
    return int(missed > 0)


def _hunt(most: int, model: str, only: str) -> None:
    """In the mutated process: run seeds until one fails, then scenarios."""
    from . import scenario
    from .run import run
    from .schedule import draw

    faulty = frozenset(model.split(",")) if model else frozenset()
    for seed in range(most):
        violation = run(draw(seed), faulty=faulty).violation
        if violation is not None:
            print(json.dumps({"seeds": seed + 1, "violation": str(violation)}))
            return
    for name in [only] if only else scenario.names():  # every test run has them as well
        violation = run(scenario.read(name), faulty=faulty).violation
        if violation is not None:
            print(json.dumps({"seeds": most, "violation": f"{violation} ({name})"}))
            return
    print(json.dumps({"seeds": most, "violation": ""}))


if __name__ == "__main__":
    _hunt(int(sys.argv[1]), sys.argv[2], sys.argv[3])
