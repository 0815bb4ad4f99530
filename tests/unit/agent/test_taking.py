"""What a point says of itself, whatever became of the wish to have the guest stand still meanwhile."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from types import SimpleNamespace
from typing import Any, cast

import pytest
from holdfast.agent.context import Context
from holdfast.agent.ports import CommitOrder, GuestHere, PauseRefused, TakeOrder, VolumesError
from holdfast.agent.taking import AGAIN, Taker
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy, Wish
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.planning.protection import plan_point
from holdfast.coordinator.planning.snapshots import Occasion
from unit.planning.made import NOON, VMID, Home, assignment, protection

HELD = None
"""Of a pause: it held. A text says why not; one in brackets, that there was none."""


@dataclass
class _Machine:
    """The ports, as far as a point is taken through them."""

    freeze: str | None = HELD
    pause_: str | None = HELD
    commits_fail: bool = False
    now: float = 0.0
    tried: list[str] = field(default_factory=list)
    seen: list[tuple[str, ...]] = field(default_factory=list)
    """The answers to who has images open; then it is nobody."""
    seconds: float = 0.1

    def monotonic(self) -> float:
        return self.now

    @asynccontextmanager
    async def pause(self, guest: GuestHere) -> AsyncIterator["_Machine"]:
        self.tried.append("freeze" if guest.freeze else "pause")
        self._outcome = self.freeze if guest.freeze else self.pause_
        if self._outcome is not None and self._outcome.startswith("("):
            raise PauseRefused(self._outcome)
        yield self

    async def resume(self) -> str | None:
        return self._outcome

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        return self.seen.pop(0) if self.seen else ()

    async def kernel_names(self, datasets: Sequence[str]) -> dict[str, str]:
        return {}

    async def prepare(self, pool: str, vmid: int) -> None:
        """Nothing to do."""

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        members = tuple(m.model_copy(update={"guid": hash(m.dataset) % 2**64}) for m in order.point.members)
        return order.point.model_copy(update={"members": members})

    async def commit(self, order: CommitOrder) -> None:
        if self.commits_fail:
            raise VolumesError("the pool is full")

    def changed(self, vmid: int) -> None:
        """Of the scanner."""

    def amend(self, vmid: int, scan: Scan) -> None:
        """Of the scanner."""


_POLICY = SnapshotPolicy.model_validate(
    {"selector": Selector(all=True), "every": "1h", "keep": "last=3", "consistency": "frozen"}
)


class _Taking:
    """Points of guest 101, one after the other, each for a policy that wants file systems frozen."""

    def __init__(self, machine: _Machine, *slots: str) -> None:
        self.machine = machine
        self._protection = replace(protection(assignment(slots=slots)), snapshots={"hourly": _POLICY})
        self._scan = Home(*slots).scan()
        context = SimpleNamespace(volumes=machine, host=machine, scanner=machine)
        self.taker = Taker(cast(Context, context), VMID, 1)

    async def take(self, wish: Wish = Wish.FROZEN, **more: Any) -> tuple[str, list[str]]:
        """(the point's consistency, the conditions)"""
        occasion = Occasion(policies=("hourly",), asked=wish)
        wanted = replace(self._protection, **more)
        plan = plan_point(wanted, 1, self._scan, [], NOON, UTC, occasion=occasion)
        assert plan.step is not None
        scan = await self.taker.take(plan.step, wanted, self._scan)
        point = scan.recorded_points(VMID)[plan.step.point]
        return str(point.consistency), sorted(c.reason for c in self.taker.conditions)


ONE, TWO = ("scsi0", "scsi1"), ("scsi0", "fast0")


@pytest.mark.parametrize(
    ("slots", "freeze", "pause", "consistency", "lacking", "tried"),
    [
        (ONE, HELD, HELD, "frozen", [], ["freeze"]),
        (ONE, "(no agent)", HELD, "atomic", ["NotFrozen"], ["freeze"]),
        (ONE, "too slow", HELD, "atomic", ["NotFrozen"], ["freeze"]),
        (TWO, HELD, HELD, "frozen", [], ["freeze"]),
        (TWO, "(no agent)", HELD, "paused", ["NotFrozen"], ["freeze", "pause"]),
        (TWO, "(no agent)", "(no monitor)", "none", ["NotFrozen", "NotPaused"], ["freeze", "pause"]),
        (TWO, "(no agent)", "too slow", "none", ["NotFrozen", "NotPaused"], ["freeze", "pause"]),
        (TWO, "too slow", HELD, "none", ["NotFrozen", "NotPaused"], ["freeze"]),
    ],
)
async def test_a_point_says_what_was_got_and_a_condition_what_was_not(
    slots: tuple[str, ...], freeze: str, pause: str, consistency: str, lacking: list[str], tried: list[str]
) -> None:
    taking = _Taking(_Machine(freeze, pause), *slots)
    assert await taking.take() == (consistency, lacking)
    assert taking.machine.tried == tried


async def test_a_guest_that_could_not_be_frozen_is_left_alone_for_ten_minutes_and_its_condition_stands() -> None:
    taking = _Taking(_Machine("(no agent)"), *ONE)
    await taking.take()
    taking.machine.freeze = HELD
    taking.machine.now = AGAIN - 1
    assert await taking.take() == ("atomic", ["NotFrozen"])
    assert await taking.take(Wish.NONE) == ("atomic", ["NotFrozen"]), "a point for something else changes nothing"
    assert taking.machine.tried == ["freeze"]
    taking.machine.now = AGAIN
    assert await taking.take() == ("frozen", [])


async def test_nothing_is_lacking_that_no_policy_wants_any_more() -> None:
    taking = _Taking(_Machine("(no agent)"), *ONE)
    await taking.take()
    assert await taking.take(Wish.NONE, snapshots={}) == ("atomic", [])


async def test_a_stillness_that_could_not_be_recorded_is_not_claimed() -> None:
    assert await _Taking(_Machine(commits_fail=True), *TWO).take() == ("none", ["NotFrozen"])


@pytest.mark.parametrize(
    ("before", "after", "consistency"),
    [((), (), "paused"), (("a client",), ("a client",), "paused"), ((), ("a client",), "none")],
)
async def test_a_guest_whose_images_are_opened_during_its_point_was_not_off(
    before: tuple[str, ...], after: tuple[str, ...], consistency: str
) -> None:
    taking = _Taking(_Machine(seen=[before, after]), *TWO)
    assert (await taking.take(Wish.PAUSED))[0] == consistency
