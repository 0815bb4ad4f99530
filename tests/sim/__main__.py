"""`python -m tests.sim`: run seeds, replay one, shrink what failed, play scenarios, try mutants."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from . import ledger, mutants, reach, scenario
from .run import run
from .schedule import Schedule, draw
from .shrink import fails_as, shrink


def _range(text: str) -> range:
    first, _, last = text.partition("..")
    try:
        return range(int(first), int(last) + 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no range of seeds: write 0..999") from None


@dataclass
class Options:
    jobs: int


@click.group(invoke_without_command=True)
@click.option("--seeds", help="A counted run, as A..B; it is taken up where it was stopped, and has a ledger line.")
@click.option("--seed", type=int, help="One schedule.")
@click.option("--input", "file", type=click.Path(exists=True, path_type=Path), help="A schedule from a file.")
@click.option("--trace", is_flag=True, help="Print what happens, for --seed and --input.")
@click.option("--shrink", "name", help="Make the failing --seed or --input short, and keep it as a scenario.")
@click.option("--jobs", default=2, help="Processes.")
@click.pass_context
def main(
    context: click.Context, seeds: str | None, seed: int | None, file: Path | None, trace: bool, name: str, jobs: int
) -> None:
    """The simulator."""
    context.obj = Options(jobs)
    if context.invoked_subcommand:
        return
    if seeds is not None:
        _report(ledger.counted(_range(seeds), jobs), 0.0)
    elif seed is not None or file is not None:
        _one(Schedule.from_json(file.read_text()) if file else draw(seed or 0), trace, name)
    else:
        raise click.UsageError("give --seeds A..B, --seed N or --input FILE, or a command: ci, mutants")


def _one(schedule: Schedule, trace: bool, name: str | None) -> None:
    outcome = run(schedule, trace=trace)
    if trace:
        click.echo("\n".join(outcome.transcript))
    click.echo(f"{outcome.violation or 'no violation'}; {outcome.lasted:.0f} s of virtual time")
    if outcome.violation is not None and name:
        short = shrink(schedule, fails_as(outcome.violation.check))
        said = "\n".join(f"- {fault}" for fault in short.faults)
        scenario.write(name, short, f"# {name}\n\n{outcome.violation}\n\n{said}\n")
        click.echo(f"kept as {scenario.FOLDER / name}")
    sys.exit(outcome.violation is not None)


def _report(tally: ledger.Tally, seconds: float) -> None:
    for seed, said in tally.failures[:20]:
        click.echo(f"seed {seed}: {said}")
    rate = f", {tally.runs / seconds * 60:.0f} a minute" if seconds else ""
    click.echo(
        f"{tally.runs} schedules{rate}, {len(tally.failures)} violations; {tally.virtual / 3600:.0f} h of virtual time;"
        f" the slowest settled {tally.worst:.0f} s after its last fault"
    )
    if tally.failures:
        sys.exit(1)


@main.command()
@click.option("--seeds", default=f"{ledger.SHARE.start}..{ledger.SHARE.stop - 1}", show_default=True)
@click.pass_obj
def ci(options: Options, seeds: str) -> None:
    """The share of every test run: seeds, and whether every fault met every step."""
    began = time.monotonic()
    tally = ledger.Tally()
    for _, part in ledger.run_seeds(_range(seeds), options.jobs):
        tally.add(part)
    click.echo(reach.table(tally.reached))
    missed = reach.unreached(tally.reached)
    for kind, step in missed:
        click.echo(f"no {kind} has struck at {step}")
    _report(tally, time.monotonic() - began)
    sys.exit(bool(missed))


@main.command("mutants")
@click.argument("names", nargs=-1)
@click.pass_obj
def try_mutants(options: Options, names: tuple[str, ...]) -> None:
    """Deliberate bugs: each must be caught."""
    sys.exit(mutants.table(names, options.jobs))


if __name__ == "__main__":
    main(prog_name="python -m tests.sim")
