"""What the tests of the client share: a watch in the background, waiting, and a put over elections of etcd's leader."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from holdfast.coordinator.store.port import Event, OutcomeUnknown, Put, Store, Unavailable, absent


class Watcher:
    """Collects a prefix's events in a task of its own."""

    def __init__(self, store: Store, prefix: str, start: int) -> None:
        self.events: list[Event] = []
        self.heard = time.monotonic()
        self.task = asyncio.create_task(self._collect(store, prefix, start))

    async def _collect(self, store: Store, prefix: str, start: int) -> None:
        async with aclosing(store.watch(prefix, start)) as batches:
            async for batch in batches:
                self.events.extend(batch.events)
                self.heard = time.monotonic()

    @property
    def values(self) -> list[bytes]:
        return [event.kv.value for event in self.events]

    async def until(self, count: int, seconds: float = 20) -> list[bytes]:
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                assert not self.task.done(), self.task.exception()
                await asyncio.sleep(0.02)
        return self.values

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@contextlib.asynccontextmanager
async def watching(store: Store, prefix: str, start: int) -> AsyncIterator[Watcher]:
    watcher = Watcher(store, prefix, start)
    try:
        yield watcher
    finally:
        await watcher.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for something that only asking tells."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def exists(store: Store, key: str) -> bool:
    return await store.get(key) is not None


async def absent_now(store: Store, key: str) -> bool:
    return await store.get(key) is None


async def put_surely(store: Store, key: str, value: bytes, seconds: float = 20) -> None:
    """A put that is repeated over an election of etcd's leader, guarded so that it happens once."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            await store.transact([absent(key)], [Put(key, value)])
        except (OutcomeUnknown, Unavailable):
            await asyncio.sleep(0.1)
        else:
            return
    pytest.fail("etcd found no new leader")
