import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from holdfast.agent.slots import Slots
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Crowd:
    """Workers that want a slot and say when they got it; each keeps it until told."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.served: list[str] = []
        self.holding: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _work(self, name: str, deadline: datetime) -> None:
        async with self._slots.hold(deadline):
            self.served.append(name)
            self.holding[name] = asyncio.Event()
            try:
                await self.holding[name].wait()
            finally:
                del self.holding[name]

    async def come(self, name: str, seconds: int) -> None:
        self.tasks[name] = asyncio.create_task(self._work(name, at(seconds)))
        await settle()

    async def leave(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_nearest_deadline_is_served_first_and_equals_in_turn() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come("first", 99)
    for name, seconds in (("late", 50), ("soon", 10), ("also soon", 10), ("middle", 30)):
        await crowd.come(name, seconds)
    for _ in range(5):
        crowd.holding[crowd.served[-1]].set()
        await settle()
    assert crowd.served == ["first", "soon", "also soon", "middle", "late"]


async def test_a_worker_that_fails_gives_its_slot_back() -> None:
    slots = Slots(1)
    with pytest.raises(ZeroDivisionError):
        async with slots.hold(NOON):
            raise ZeroDivisionError
    async with asyncio.timeout(1), slots.hold(NOON):
        pass


async def test_a_worker_that_is_cancelled_in_the_moment_it_is_served_passes_its_slot_on() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come("first", 0)
    await crowd.come("second", 1)
    await crowd.come("third", 2)
    crowd.holding["first"].set()
    await asyncio.sleep(0)  # first gives its slot to second, which has not run yet
    crowd.tasks["second"].cancel()
    await settle()
    assert "third" in crowd.holding
    await crowd.leave()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 5)),
        st.tuples(st.just("done"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("tick"), st.just(0)),
    ),
    max_size=40,
)


@given(count=st.integers(1, 3), actions=ACTIONS)
def test_no_slot_is_lost_and_none_is_given_twice(count: int, actions: list[tuple[str, int]]) -> None:
    asyncio.run(_live(count, actions))


async def _live(count: int, actions: list[tuple[str, int]]) -> None:
    slots = Slots(count)
    crowd = Crowd(slots)
    for number, (action, which) in enumerate(actions):
        if action == "come":
            crowd.tasks[str(number)] = asyncio.create_task(crowd._work(str(number), at(which)))
        elif action == "done" and crowd.holding:
            list(crowd.holding.values())[which % len(crowd.holding)].set()
        elif action == "cancel" and crowd.tasks:
            list(crowd.tasks.values())[which % len(crowd.tasks)].cancel()
        elif action == "tick":
            await asyncio.sleep(0)
        assert len(crowd.holding) <= count
    await settle()
    wanting = [task for task in crowd.tasks.values() if not task.done()]
    assert len(crowd.holding) == min(count, len(wanting)), "a slot is free and somebody waits for it"
    await crowd.leave()
    async with asyncio.timeout(1), slots.hold(NOON):
        pass
