"""Keeps what may be done side by side from what may not: many pass a gate at once, none while it is closed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Of one guest: its targets' commits pass, a rollback closes it."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._passing = 0
        self._closed = False
        self.turns = 0
        """How often it was closed or opened: whoever has planned before, or while it was closed, plans again."""

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait until it is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Close it, and wait until nobody passes any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self.turns += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._passing)
            yield
        finally:
            self._closed = False
            self.turns += 1
            async with self._changed:
                self._changed.notify_all()
