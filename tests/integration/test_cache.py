"""The cache against a real etcd: what its subscribers see, over faults too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from holdfast.coordinator.store.cache import Cache, Change
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import StoreError
from integration.etcd_cluster import EtcdCluster


@contextlib.asynccontextmanager
async def following(cache: Cache) -> AsyncIterator[None]:
    task = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(15):
            await cache.synced.wait()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def reached(cache: Cache, revision: int, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        await cache.changed(revision - 1)


async def test_it_holds_what_was_there_and_follows_what_comes(store: EtcdStore, prefix: str) -> None:
    await store.put(prefix + "b/1", b"old")
    cache = Cache(store, prefix)
    seen: list[Change] = []
    end = cache.subscribe(prefix + "b/", seen.append)
    assert cache.staleness() == float("inf")
    async with following(cache):
        await store.put(prefix + "a", b"elsewhere")
        await store.put(prefix + "b/1", b"new")
        await reached(cache, await store.put(prefix + "b/0", b"x"))
        assert [item.key for item in cache.prefix(prefix + "b/")] == [prefix + "b/0", prefix + "b/1"]
        await store.delete(prefix + "b/1")
        await reached(cache, await store.put(prefix + "b/2", b"y"))
        assert cache.get(prefix + "b/1") is None
        assert len(cache) == 3
        assert cache.staleness() < 5
        end()
        await reached(cache, await store.put(prefix + "b/3", b"unseen"))
    assert [(change.key[-1], change.old and change.old.value, change.new and change.new.value) for change in seen] == [
        ("1", None, b"old"),
        ("1", b"old", b"new"),
        ("0", None, b"x"),
        ("1", b"new", None),
        ("2", None, b"y"),
    ]


async def test_it_lists_again_after_a_compaction_and_notices_deletions(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    for name in ("goes", "stays", "changes"):
        await own_store.put(prefix + name, b"1")
    cache = Cache(own_store, prefix)
    seen: list[Change] = []
    async with following(cache):
        cache.subscribe(prefix, seen.append)
        # All this blocks the event loop: the cache hears of none of it, and then the history is gone.
        own_etcd.kill9(0)
        own_etcd.start(0)
        own_etcd.wait_healthy()
        own_etcd.ctl("del", prefix + "goes")
        own_etcd.ctl("put", prefix + "changes", "2")
        header = own_etcd.ctl("put", prefix + "comes", "1")["header"]
        own_etcd.ctl("compact", str(header["revision"]))
        await reached(cache, header["revision"])
        assert cache.relists == 1
    final = {change.key.removeprefix(prefix): change.new and change.new.value for change in seen}
    assert final == {"goes": None, "changes": b"2", "comes": b"1"}
    assert [item.key.removeprefix(prefix) for item in cache.prefix(prefix)] == ["changes", "comes", "stays"]


async def test_it_grows_stale_while_nobody_answers_and_recovers(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    cache = Cache(own_store, prefix)
    async with following(cache):
        own_etcd.stop(0)
        await asyncio.sleep(2.5)
        assert cache.staleness() > 2
        own_etcd.cont(0)
        await reached(cache, await _put_when_possible(own_store, prefix + "a"))
        assert cache.staleness() < 2


async def _put_when_possible(store: EtcdStore, key: str) -> int:
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(StoreError):
                return await store.put(key, b"1")
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("count", [5000])
async def test_a_large_prefix_is_loaded_in_pages(store: EtcdStore, prefix: str, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for worker in range(20):
            group.create_task(_fill(store, prefix, range(worker, count, 20)))
    cache = Cache(store, prefix)
    async with following(cache):
        assert len(cache) == count
        assert [item.value for item in cache.prefix(prefix)] == [b"%d" % number for number in range(count)]


async def _fill(store: EtcdStore, prefix: str, numbers: range) -> None:
    for number in numbers:
        await store.put(f"{prefix}{number:06}", b"%d" % number)
