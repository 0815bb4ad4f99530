import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.scanner import RECENT, Scanner
from holdfast.coordinator.planning.observed import Anchor, Scan
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class Pool:
    """Counts its looks; each shows the state at the time at which it began.

    The clock moves by hand, and a little at each reading.
    """

    clock: float = 1000.0
    version: int = 0
    looks: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def monotonic(self) -> float:
        self.clock += 1e-6  # no two readings of a real clock are the same
        return self.clock

    async def scan(self) -> Scan:
        self.looks += 1
        seen = show(self.version)
        await self.gate.wait()
        if self.broken:
            raise VolumesError("suspended")
        return seen


def show(version: int) -> Scan:
    return Scan(START + timedelta(seconds=version), {}, {("tank", 101): Anchor("tank", 101, version)})


def scanner(pool: Pool) -> Scanner:
    return Scanner(pool, pool)  # type: ignore[arg-type]  # of the ports, what a scanner uses


async def test_all_who_ask_at_the_same_time_share_one_look() -> None:
    pool = Pool()
    pool.gate.clear()
    shared = scanner(pool)
    asked = [asyncio.create_task(shared.look(vmid)) for vmid in range(101, 111)]
    await asyncio.sleep(0)
    pool.gate.set()
    assert len({id(scan) for scan in await asyncio.gather(*asked)}) == 1
    assert pool.looks == 1


async def test_a_look_serves_again_while_it_is_recent_and_not_after() -> None:
    pool = Pool()
    shared = scanner(pool)
    await shared.look(101)
    pool.clock += RECENT - 0.1
    await shared.look(101)
    assert pool.looks == 1
    pool.clock += 0.2
    await shared.look(101)
    assert pool.looks == 2


async def test_after_a_change_a_guest_is_looked_at_anew_and_the_others_are_not() -> None:
    pool = Pool()
    shared = scanner(pool)
    await shared.look(101)
    pool.clock += 0.5
    shared.changed(101)
    await shared.look(102)
    assert pool.looks == 1
    await shared.look(101)
    assert pool.looks == 2


async def test_a_look_that_began_before_the_change_does_not_serve() -> None:
    pool = Pool()
    shared = scanner(pool)
    pool.gate.clear()
    first = asyncio.create_task(shared.look(102))
    await asyncio.sleep(0)
    pool.clock += 0.5
    pool.version = 1
    shared.changed(101)
    second = asyncio.create_task(shared.look(101))
    await asyncio.sleep(0)
    pool.gate.set()
    assert (await first).epoch_of(101) == 0
    assert (await second).epoch_of(101) == 1


async def test_what_is_amended_serves_for_its_guest_alone_and_until_the_next_change() -> None:
    pool = Pool()
    shared = scanner(pool)
    await shared.look(101)
    pool.clock += 0.5
    shared.amend(101, show(7))
    assert (await shared.look(101)).epoch_of(101) == 7
    assert (await shared.look(102)).epoch_of(101) == 0
    assert shared.known(101) == show(7)
    shared.changed(101)
    assert (await shared.look(101)).epoch_of(101) == 0
    assert pool.looks == 2


async def test_a_later_look_counts_before_what_was_amended() -> None:
    pool = Pool(version=9)
    shared = scanner(pool)
    shared.amend(101, show(7))
    pool.clock += RECENT + 1
    assert (await shared.look(102)).epoch_of(101) == 9
    assert (await shared.look(101)).epoch_of(101) == 9
    assert shared.known(101) == show(9)


async def test_a_look_that_fails_is_told_and_the_next_is_tried() -> None:
    pool = Pool(broken=True)
    shared = scanner(pool)
    with pytest.raises(VolumesError):
        await shared.look(101)
    assert shared.known(101) is None
    assert shared.anchors() == set()
    pool.broken = False
    await shared.look(101)
    assert shared.anchors() == {("tank", 101)}


async def test_who_is_cancelled_while_looking_leaves_the_others_their_turn() -> None:
    pool = Pool()
    shared = scanner(pool)
    pool.gate.clear()
    first, second = (asyncio.create_task(shared.look(101)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    pool.gate.set()
    async with asyncio.timeout(1):
        await second


@given(st.lists(st.sampled_from(["write 101", "write 102", "look 101", "look 102", "wait"]), max_size=30))
def test_nobody_is_shown_less_than_its_own_last_change_or_more_than_recent(actions: list[str]) -> None:
    async def live() -> None:
        pool = Pool()
        shared = scanner(pool)
        own = {101: 0, 102: 0}
        for action in actions:
            pool.clock += 0.1
            if action == "wait":
                pool.clock += RECENT
                continue
            kind, vmid = action.split()[0], int(action.split()[1])
            if kind == "write":
                pool.version += 1
                own[vmid] = pool.version
                shared.changed(vmid)
            else:
                assert (await shared.look(vmid)).epoch_of(101) >= own[vmid]

    asyncio.run(live())
