"""Joins what several guests ask for at the same time into one zfs process.

The first request waits a moment for others; what comes while a process runs goes with the next one. So the number of
processes of a cycle does not grow with the number of guests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Order = TypeVar("Order")
Outcome = TypeVar("Outcome")

LINGER = 0.03
"""Seconds: guests that fall due together plan within a few milliseconds of one another."""

LARGEST = 64
"""Requests per process: Linux bounds an argv, and a channel program holds up the pool while it runs."""


class Batch(Generic[Order, Outcome]):
    """Collects orders and runs them together; each caller gets its own outcome or exception.

    No task of its own: the caller that comes first carries the batch out for the others.
    """

    def __init__(self, carry_out: Callable[[Sequence[Order]], Awaitable[Sequence[Outcome | Exception]]]) -> None:
        self._carry_out = carry_out
        self._waiting: list[tuple[Order, asyncio.Future[Outcome]]] = []
        self._turn = asyncio.Lock()

    async def do(self, order: Order) -> Outcome:
        """Carry one order out, together with those that others have given."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = (order, future)
        self._waiting.append(entry)
        try:
            await asyncio.sleep(LINGER)
            while not future.done():
                async with self._turn:
                    if not future.done():
                        await self._run_some()
            return future.result()
        finally:
            future.cancel()  # nobody will ask for the outcome of a call that runs still
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def _run_some(self) -> None:
        taken, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
        try:
            outcomes = await self._carry_out([order for order, _ in taken])
        except asyncio.CancelledError:
            # only the carrier was cancelled: what the others asked for is asked again by one of them
            self._waiting = [entry for entry in taken if not entry[1].done()] + self._waiting
            raise
        except Exception as error:
            outcomes = [error] * len(taken)
        for (_, future), outcome in zip(taken, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
