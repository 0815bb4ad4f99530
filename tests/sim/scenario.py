"""Scenarios: short schedules that are kept as stories, each a folder with README.md, input.json and expected.log.

`expected.log` has the lines of the transcript that matter, without times: they must be found in this order.
"""

import re
from pathlib import Path

from .run import Outcome, run
from .schedule import Schedule

FOLDER = Path(__file__).parent / "scenarios"
_NOISE = re.compile(r" (save|scan|hold|release|report|list|prepare|raise_epoch|destroy|drop_bookmark|record_sent)$")


def names() -> list[str]:
    """All that there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/input.json"))


def read(name: str) -> Schedule:
    """A scenario's schedule."""
    return Schedule.from_json((FOLDER / name / "input.json").read_text())


def play(name: str) -> Outcome:
    """Run a scenario."""
    return run(read(name), trace=True)


def story(outcome: Outcome) -> list[str]:
    """The lines of a transcript that tell what happened; without times, sizes and what is said in many words."""
    lines = [re.sub(r"uuid=\S+", "uuid=…", line[12:]) for line in outcome.transcript if not _NOISE.search(line)]
    return [re.sub(r" (error|message|of|seconds|destroyed|bytes)=.*", "", line) for line in lines]


def missing(name: str, outcome: Outcome) -> str | None:
    """The first line of the expected log that did not come in its turn; None if all did."""
    lines = iter(story(outcome))
    for expected in (FOLDER / name / "expected.log").read_text().splitlines():
        if expected and not expected.startswith("#") and not any(expected == line for line in lines):
            return expected
    return None


def write(name: str, schedule: Schedule, about: str) -> None:
    """Keep a schedule as a scenario, with the log that it has now; what matters of it is for a person to leave."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(about)
    (folder / "input.json").write_text(schedule.to_json() + "\n")
    (folder / "expected.log").write_text("\n".join(story(run(schedule, trace=True))) + "\n")
