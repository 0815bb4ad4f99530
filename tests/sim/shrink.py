"""Makes a failing schedule short: drops what is not needed, then shortens times, while the same check still fails."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from .run import run
from .schedule import Schedule

Fails = Callable[[Schedule], bool]


def fails_as(check: str, faulty: frozenset[str] = frozenset()) -> Fails:
    """Whether a schedule breaks this very check."""

    def fails(schedule: Schedule) -> bool:
        violation = run(schedule, faulty=faulty).violation
        return violation is not None and violation.check == check

    return fails


def shrink(schedule: Schedule, fails: Fails) -> Schedule:
    """The smallest schedule that was found to fail likewise."""
    shorter = True
    while shorter:
        shorter = False
        for candidate in _smaller(schedule):
            if _sound(candidate) and fails(candidate):
                schedule, shorter = candidate, True
                break
    return schedule


def _sound(schedule: Schedule) -> bool:
    """Whether guests and faults name only what there is."""
    machines = {"", *(f"n{n + 1}" for n in range(schedule.nodes)), *(f"w{n + 1}" for n in range(schedule.coordinators))}
    guests = {guest.vmid for guest in schedule.guests}
    return all(guest.node in machines for guest in schedule.guests) and all(
        {fault.node, fault.other} <= machines and fault.vmid in guests for fault in schedule.faults
    )


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    faults = schedule.faults
    for index in range(len(faults)):
        yield replace(schedule, faults=faults[:index] + faults[index + 1 :])
    if len(schedule.guests) > 1:
        for guest in schedule.guests:
            others = tuple(f for f in faults if f.vmid != guest.vmid)
            acts = tuple(a for a in schedule.acts if a.vmid != guest.vmid)
            yield replace(
                schedule, guests=tuple(g for g in schedule.guests if g is not guest), faults=others, acts=acts
            )
    if schedule.nodes > 2:
        yield replace(schedule, nodes=2)
    if schedule.coordinators > 1:
        yield replace(schedule, coordinators=1)
    if schedule.rates:
        yield replace(schedule, rates={})
    if schedule.keep > 1:
        yield replace(schedule, keep=1)
    for index, guest in enumerate(schedule.guests):
        plainer = [replace(guest, still=False), replace(guest, spread=False), replace(guest, rests=())]
        for plain in plainer:
            if plain != guest:
                yield replace(schedule, guests=(*schedule.guests[:index], plain, *schedule.guests[index + 1 :]))
    for index, fault in enumerate(faults):
        if fault.seconds > 2:
            half = replace(fault, seconds=round(fault.seconds / 2, 1))
            yield replace(schedule, faults=(*faults[:index], half, *faults[index + 1 :]))
        if fault.at is not None and fault.at > 4:
            sooner = replace(fault, at=round(fault.at / 2, 1))
            yield replace(schedule, faults=(*faults[:index], sooner, *faults[index + 1 :]))
        if fault.nth > 1:
            first = replace(fault, nth=fault.nth - 1)
            yield replace(schedule, faults=(*faults[:index], first, *faults[index + 1 :]))
