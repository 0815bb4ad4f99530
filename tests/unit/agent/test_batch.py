import asyncio
import gc
from collections.abc import Sequence

import pytest
from holdfast.agent.storage.zfs.batch import LARGEST, Batch
from hypothesis import given, settings
from hypothesis import strategies as st


class Storage:
    """Says of each order that it was done; what begins with `bad` fails alone. `gate` holds a call up."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Exception | None = None
        self.batch: Batch[str, str] = Batch(self._carry_out)

    async def _carry_out(self, orders: Sequence[str]) -> Sequence[str | Exception]:
        self.calls.append(list(orders))
        self.called.set()
        await self.gate.wait()
        if self.broken:
            raise self.broken
        return [ValueError(order) if order.startswith("bad") else f"did {order}" for order in orders]

    def give(self, *orders: str) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.batch.do(order)) for order in orders]


async def test_what_is_asked_for_at_the_same_time_goes_in_one_call_and_each_gets_its_own_outcome() -> None:
    storage = Storage()
    assert await asyncio.gather(*storage.give("a", "b", "c")) == ["did a", "did b", "did c"]
    assert storage.calls == [["a", "b", "c"]]


async def test_what_comes_while_a_call_runs_goes_together_with_the_next() -> None:
    storage = Storage()
    storage.gate.clear()
    first = storage.give("a")
    await storage.called.wait()
    more = storage.give("b", "c")
    await asyncio.sleep(0.1)
    assert len(storage.calls) == 1, "one call at a time"
    storage.gate.set()
    assert await asyncio.gather(*first, *more) == ["did a", "did b", "did c"]
    assert storage.calls == [["a"], ["b", "c"]]


async def test_one_that_fails_fails_alone() -> None:
    storage = Storage()
    a, bad, c = await asyncio.gather(*storage.give("a", "bad b", "c"), return_exceptions=True)
    assert (a, c) == ("did a", "did c")
    assert isinstance(bad, ValueError)


async def test_when_the_call_fails_all_are_told_and_the_next_is_not_harmed() -> None:
    storage = Storage()
    storage.broken = OSError("no pool")
    outcomes = await asyncio.gather(*storage.give("a", "b"), return_exceptions=True)
    assert [str(o) for o in outcomes] == ["no pool", "no pool"]
    storage.broken = None
    assert await asyncio.gather(*storage.give("c")) == ["did c"]


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_whoever_is_cancelled_while_a_call_runs_the_others_get_theirs(who: int) -> None:
    storage = Storage()
    storage.gate.clear()
    tasks = storage.give("a", "b", "c")
    await storage.called.wait()
    tasks[who].cancel()
    await asyncio.sleep(0.05)
    storage.gate.set()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[who], asyncio.CancelledError)
    assert [o for n, o in enumerate(outcomes) if n != who] == [f"did {x}" for n, x in enumerate("abc") if n != who]
    if who == 0:
        assert storage.calls[1] == ["b", "c"], "what was cancelled is not asked for again"


async def test_what_is_cancelled_before_the_call_is_not_carried_out() -> None:
    storage = Storage()
    a, b = storage.give("a", "b")
    await asyncio.sleep(0)
    a.cancel()
    assert await b == "did b"
    assert storage.calls == [["b"]]


async def test_an_outcome_that_nobody_waits_for_any_more_is_not_complained_about() -> None:
    storage = Storage()
    storage.gate.clear()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    carrier, gone = storage.give("a", "bad b")
    await storage.called.wait()
    gone.cancel()
    await asyncio.sleep(0)
    storage.gate.set()
    await carrier
    del gone
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_a_call_has_a_largest_size_and_the_rest_follows() -> None:
    storage = Storage()
    orders = [f"{n}" for n in range(LARGEST + 5)]
    assert await asyncio.gather(*storage.give(*orders)) == [f"did {o}" for o in orders]
    assert [len(call) for call in storage.calls] == [LARGEST, 5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["give", "bad", "cancel", "wait"]), st.integers(0, 9)), max_size=15))
def test_whatever_is_cancelled_nobody_waits_for_ever(actions: list[tuple[str, int]]) -> None:
    async def live() -> None:
        storage = Storage()
        tasks: list[asyncio.Task[str]] = []
        for number, (action, which) in enumerate(actions):
            if action in ("give", "bad"):
                tasks += storage.give(f"{action} {number}")
            elif action == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            else:
                await asyncio.sleep(0.004 * which)
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(o, ValueError | asyncio.CancelledError) or o.startswith("did give") for o in outcomes)  # type: ignore[union-attr]

    asyncio.run(live())
