"""The cache against a scripted store: what no real etcd does on demand."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from holdfast.coordinator.store.cache import Cache, Change
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Compacted, Event, KeyValue, Listing, WatchBatch, WentBack


def kv(key: str, revision: int) -> KeyValue:
    return KeyValue(key, b"%d" % revision, revision, revision, 1)


class Script(EtcdStore):
    """Answers listings and watches from a list; a watch that is used up has been compacted away."""

    def __init__(self, listings: list[Listing], watches: list[list[WatchBatch]]) -> None:
        super().__init__(["unused:1"])
        self._listings, self._watches = iter(listings), iter(watches)

    async def list(self, prefix: str) -> Listing:
        return next(self._listings)

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        for batch in next(self._watches):
            yield batch
        raise Compacted("gone")


async def test_a_store_that_went_back_is_refused() -> None:
    cache = Cache(Script([Listing((kv("a", 9),), 9), Listing((), 8)], [[]]), "")
    with pytest.raises(WentBack, match="at revision 8 but was at 9"):
        await cache.run()
    assert cache.get("a") == kv("a", 9)


async def test_events_at_or_below_the_views_revision_change_nothing() -> None:
    old = Event("delete", KeyValue("a", b"", 0, 5, 0))
    script = [[WatchBatch(9, (old,)), WatchBatch(5, (old,)), WatchBatch(10, (Event("put", kv("b", 10)),))]]
    cache = Cache(Script([Listing((kv("a", 9),), 9), Listing((), 0)], script), "")
    seen: list[Change] = []
    cache.subscribe("", seen.append)
    with pytest.raises(WentBack):
        await cache.run()
    assert seen == [Change("a", None, kv("a", 9)), Change("b", None, kv("b", 10))]
    assert cache.revision == 10


async def test_who_waits_for_a_change_is_woken_at_the_next_revision() -> None:
    cache = Cache(Script([Listing((kv("a", 3),), 4), Listing((), 0)], [[]]), "")
    waiting = asyncio.create_task(cache.changed(3))
    await asyncio.sleep(0)
    with pytest.raises(WentBack):
        await cache.run()
    assert await waiting == 4
