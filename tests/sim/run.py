"""Runs one schedule: until its faults have passed and everything has settled, or an invariant is broken."""

import gc
import sys
from collections import Counter
from dataclasses import dataclass

from .checks import Checks
from .cluster import Cluster
from .faults import HORIZON, Faults
from .log import listen
from .people import People
from .schedule import Schedule
from .settled import Settled
from .world import Violation

LOOK = 2.0
"""Seconds between looks at whether all has settled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a schedule. `settled`: seconds from the last fault's end until all was well."""

    violation: Violation | None
    transcript: list[str]
    reached: Counter[tuple[str, str]]
    steps: Counter[str]
    lasted: float
    settled: float


def bound(schedule: Schedule) -> float:
    """Seconds within which everything has settled after the last fault: three RPOs, the longest wait for a lost peer
    or a hanging command (120 s), and the longest pause between tries."""
    return 3 * schedule.rpo + 120 + 30


def run(schedule: Schedule, *, trace: bool = False, faulty: frozenset[str] = frozenset()) -> Outcome:
    """Run a schedule to its end."""
    gc_was = gc.isenabled()
    gc.disable()
    cluster = Cluster(schedule, trace=trace, faulty=faulty)
    people = People(cluster)
    checks = Checks(cluster, people)
    settled = Settled(cluster, people, checks)
    faults = Faults(cluster, checks)
    world = cluster.world
    listen(cluster, checks)
    took = 0.0
    try:
        people.write_all()
        cluster.start()
        until = schedule.length
        good_since: float | None = None
        while not world.violations:
            world.loop.run(until)
            if world.violations:
                break
            if not faults.over or world.now < people.last_act:
                until = max(min(HORIZON + 0.1, faults.quiet_from), world.now) + LOOK
                good_since = None
                continue
            wrong = settled.unsettled()
            if not wrong:
                good_since = good_since if good_since is not None else world.now
                took = max(0.0, good_since - faults.quiet_from)
                if world.now - good_since >= cluster.rpo * 0.75:
                    break
            else:
                good_since = None
                if world.now - max(faults.quiet_from, people.last_act, schedule.length) > bound(schedule):
                    world.violated(wrong[0].partition(":")[0], wrong[0].partition(": ")[2])
                    break
            until = world.now + LOOK
    finally:
        lasted = world.now
        violations, transcript = list(world.violations), list(world.transcript)
        for process in cluster.running.values():
            process.alive = False
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            world.loop.discard()
        finally:
            sys.unraisablehook = hook
            if gc_was:
                gc.enable()
    violation = violations[0] if violations else None
    return Outcome(violation, transcript, faults.reached, world.steps, lasted, took)
