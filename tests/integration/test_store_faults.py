"""What the client makes of members that die, freeze, forget and lose answers."""

import asyncio
import time
from contextlib import aclosing

import pytest
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import (
    Compacted,
    LeaseLost,
    OutcomeUnknown,
    Put,
    Unavailable,
    absent,
)
from integration.etcd_cluster import EtcdCluster
from integration.proxy import lossy_proxy
from integration.watcher import Watcher, put_surely


async def test_a_watch_over_kill_9_of_its_only_member_loses_and_doubles_nothing(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    watcher = Watcher(own_store, prefix, await own_store.put("before", b""))
    for number in range(5):
        await own_store.put(f"{prefix}{number}", b"%d" % number)
    await watcher.until(5)
    await asyncio.to_thread(own_etcd.kill9, 0)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(own_etcd.start_all)
    own_etcd.ctl("put", prefix + "while-away", "5")
    for number in range(6, 10):
        own_etcd.ctl("put", f"{prefix}{number}", str(number))
    assert await watcher.until(10) == [b"%d" % number for number in range(10)]
    await asyncio.sleep(0.3)
    assert len(watcher.events) == 10
    await watcher.close()


async def test_a_watch_moves_on_when_its_member_of_three_is_killed(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str
) -> None:
    watcher = Watcher(store3, prefix, await store3.put(prefix + "0", b"0"))
    await watcher.until(1)
    etcd3.kill9(0)
    killed = time.monotonic()
    async with EtcdStore(etcd3.endpoints[1:], etcd3.tls) as other:
        await put_surely(other, prefix + "1", b"1")
        assert await watcher.until(2, seconds=8) == [b"0", b"1"]
        print(f"\nevent after kill -9: {time.monotonic() - killed:.1f} s")
        assert await store3.put(prefix + "2", b"2")
        assert await watcher.until(3) == [b"0", b"1", b"2"]
    await watcher.close()


async def test_a_frozen_member_of_three_is_left_within_seconds(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str
) -> None:
    watcher = Watcher(store3, prefix, await store3.put(prefix + "0", b"0"))
    await watcher.until(1)
    etcd3.stop(0)
    frozen = time.monotonic()
    async with EtcdStore(etcd3.endpoints[1:], etcd3.tls) as other:
        await put_surely(other, prefix + "1", b"1")
        assert await watcher.until(2, seconds=8) == [b"0", b"1"]
        print(f"\nevent after SIGSTOP: {time.monotonic() - frozen:.1f} s")
    found = await store3.get(prefix + "1")
    assert found is not None
    etcd3.cont(0)
    await watcher.close()


async def test_a_watch_from_a_compacted_revision_says_so(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    first = await own_store.put(prefix + "a", b"1")
    last = await own_store.put(prefix + "a", b"2")
    own_etcd.ctl("compact", str(last))
    with pytest.raises(Compacted, match="list again") as caught:
        await Watcher(own_store, prefix, first).task
    assert caught.value.revision == last
    watcher = Watcher(own_store, prefix, last)
    assert await watcher.until(1) == [b"2"]
    await watcher.close()


async def test_a_large_transaction_arrives_as_one_batch(store: EtcdStore, prefix: str) -> None:
    result = await store.transact([], [Put(f"{prefix}{n:02}", bytes(20_000)) for n in range(60)])
    async with asyncio.timeout(10), aclosing(store.watch(prefix, result.revision)) as batches:
        async for batch in batches:
            if batch.events:
                break
    assert len(batch.events) == 60
    assert batch.revision == result.revision


async def test_cancelled_watches_leave_no_watcher_at_the_server(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    name = "etcd_debugging_mvcc_watcher_total"
    start = await own_store.put(prefix + "a", b"1")
    watchers = [Watcher(own_store, prefix, start) for _ in range(50)]
    for watcher in watchers:
        await watcher.until(1)
    assert own_etcd.metric(name) == 50
    for watcher in watchers:
        await watcher.close()
    async with asyncio.timeout(5):
        while own_etcd.metric(name):
            await own_store.get(prefix + "a")


async def test_a_silent_prefix_still_gives_signs_of_life(store: EtcdStore, prefix: str) -> None:
    start = await store.put("before", b"")
    began = time.monotonic()
    async with asyncio.timeout(10), aclosing(store.watch(prefix, start + 1)) as batches:
        seen = [await anext(batches) for _ in range(3)]
    assert [(batch.revision, batch.events) for batch in seen] == [(start, ())] * 3
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("how", ["put", "transaction"])
async def test_a_write_whose_answer_is_lost_has_an_unknown_outcome(
    etcd: EtcdCluster, store: EtcdStore, prefix: str, how: str
) -> None:
    key = prefix + "a"
    async with (
        lossy_proxy(etcd.endpoints[0]) as proxy,
        EtcdStore([proxy.endpoint], patience=Patience(write=0.5)) as lossy,
    ):
        assert await lossy.get(key) is None
        proxy.lose_replies = True
        with pytest.raises(OutcomeUnknown, match="read again"):
            await (lossy.put(key, b"1") if how == "put" else lossy.transact([absent(key)], [Put(key, b"1")]))
    found = await store.get(key)
    assert found is not None, "the proxy lets requests pass"
    assert found.version == 1, "it was sent once"


async def test_a_write_to_a_member_that_is_down_goes_to_the_next(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    async with EtcdStore(["127.0.0.1:9", *etcd.endpoints]) as other:
        assert await other.put(prefix + "a", b"1")
    found = await store.get(prefix + "a")
    assert found is not None
    assert found.version == 1


async def test_nobody_there_is_said_within_the_limit() -> None:
    async with EtcdStore(["127.0.0.1:9"], patience=Patience(total=0.5)) as store:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
            await store.put("a", b"1")
        assert time.monotonic() - began < 2


async def test_a_member_without_a_leader_is_noticed(etcd3: EtcdCluster, store3: EtcdStore, prefix: str) -> None:
    await store3.put(prefix + "a", b"1")
    etcd3.kill9(1)
    etcd3.kill9(2)
    await asyncio.sleep(2)
    quick = Patience(total=3)
    async with EtcdStore(etcd3.endpoints[:1], etcd3.tls, patience=quick) as store:
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await store.put(prefix + "a", b"2")
        with pytest.raises(Unavailable):
            await store.get(prefix + "a")
        assert not (await store.status())[0].has_leader


async def test_a_lease_removes_its_key_when_it_is_not_kept_alive(store: EtcdStore, prefix: str) -> None:
    kept, left = await store.grant(2), await store.grant(2)
    await store.put(prefix + "kept", b"1", kept.id)
    await store.put(prefix + "left", b"1", left.id)
    began = time.monotonic()
    while await store.get(prefix + "left"):
        assert time.monotonic() - began < 8
        assert (await store.keep_alive(kept.id, prefix + "kept")).ttl == kept.ttl
        await asyncio.sleep(0.3)
    assert time.monotonic() - began >= left.ttl - 0.5
    assert await store.get(prefix + "kept")
    with pytest.raises(LeaseLost):
        await store.keep_alive(left.id, prefix + "left")
    await store.revoke(kept.id)
    assert await store.get(prefix + "kept") is None
    await store.revoke(kept.id)


async def test_a_lease_can_be_kept_alive_over_a_killed_member(etcd3: EtcdCluster, store3: EtcdStore) -> None:
    lease = await store3.grant(10)
    etcd3.kill9(0)
    began = time.monotonic()
    assert (await store3.keep_alive(lease.id, "any")).ttl == 10
    assert time.monotonic() - began < 8
