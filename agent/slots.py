"""Bounds how many transfers run at once; the one whose deadline is nearest goes first."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator
from datetime import datetime


class Slots:
    """A semaphore whose waiters are served by deadline, and in turn where deadlines are equal."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._order = itertools.count()
        self._waiting: list[tuple[datetime, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def hold(self, deadline: datetime) -> AsyncIterator[None]:
        """Wait for a slot, and keep it for the length of the block."""
        await self._acquire(deadline)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, deadline: datetime) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (deadline, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot was given to us in the same moment
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
