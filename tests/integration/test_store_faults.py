"""What the client makes of members that die, freeze, forget and lose answers."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import (
    Compacted,
    LeaseLost,
    Operation,
    OutcomeUnknown,
    Put,
    Unavailable,
    absent,
)
from holdfast.coordinator.store.watch import Fragments
from holdfast.proto import etcd_pb2 as pb
from integration.etcd_cluster import EtcdCluster
from integration.proxy import lossy_proxy
from integration.watcher import Watcher, put_surely, watching

Note = Callable[[str, float], None]


async def test_a_watch_over_kill_9_of_its_only_endpoint_loses_and_doubles_nothing(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note
) -> None:
    start = await store3.put("before", b"")
    async with (
        EtcdStore(etcd3.endpoints[:1], etcd3.tls) as only,
        EtcdStore(etcd3.endpoints[1:], etcd3.tls) as writer,
        watching(only, prefix, start) as watcher,
    ):
        for number in range(5):
            await store3.put(f"{prefix}{number}", b"%d" % number)
        await watcher.until(5)
        etcd3.kill9(0)
        for number in range(5, 10):
            await put_surely(writer, f"{prefix}{number}", b"%d" % number)
        await asyncio.to_thread(etcd3.start, 0)
        await asyncio.to_thread(etcd3.wait_healthy)
        started = time.monotonic()
        for number in range(10, 15):
            await put_surely(writer, f"{prefix}{number}", b"%d" % number)
        assert await watcher.until(15) == [b"%d" % number for number in range(15)]
        resumed("kill -9 of the only endpoint, after it is back", watcher.heard - started)
        await asyncio.sleep(0.3)
        assert len(watcher.events) == 15


async def test_a_watch_whose_history_is_compacted_while_its_member_is_dead_says_so(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str
) -> None:
    start = await store3.put(prefix + "0", b"0")
    async with (
        EtcdStore(etcd3.endpoints[:1], etcd3.tls) as only,
        EtcdStore(etcd3.endpoints[1:], etcd3.tls) as writer,
        watching(only, prefix, start) as watcher,
    ):
        await watcher.until(1)
        etcd3.kill9(0)
        for number in range(1, 6):
            await put_surely(writer, f"{prefix}{number}", b"%d" % number)
        last = await writer.put(prefix + "last", b"")
        await asyncio.to_thread(etcd3.ctl, "compact", str(last))
        await asyncio.to_thread(etcd3.start, 0)
        with pytest.raises(Compacted, match="list again") as caught:
            async with asyncio.timeout(15):
                await watcher.task
        assert caught.value.revision == last
        assert watcher.values == [b"0"]
        assert len((await only.list(prefix)).items) == 7


async def test_a_watch_moves_on_when_its_member_of_three_is_killed(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note
) -> None:
    async with (
        EtcdStore(etcd3.endpoints[1:], etcd3.tls) as other,
        watching(store3, prefix, await store3.put(prefix + "0", b"0")) as watcher,
    ):
        await watcher.until(1)
        etcd3.kill9(0)
        killed = time.monotonic()
        await put_surely(other, prefix + "1", b"1")
        assert await watcher.until(2, seconds=8) == [b"0", b"1"]
        resumed("kill -9 of the connected member, three endpoints", watcher.heard - killed)
        assert await store3.put(prefix + "2", b"2")
        assert await watcher.until(3) == [b"0", b"1", b"2"]


async def test_kill_9_while_catching_up_on_6000_revisions_loses_and_doubles_nothing(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragments = 0
    add = Fragments.add

    def counted(self: Fragments, response: pb.WatchResponse) -> list[pb.Event] | None:
        nonlocal fragments
        fragments += response.fragment
        return add(self, response)

    monkeypatch.setattr(Fragments, "add", counted)
    start = await store3.put(prefix + "start", b"start")
    async with asyncio.TaskGroup() as group:
        for worker in range(40):
            group.create_task(fill(store3, prefix, range(worker, 6000, 40)))
    seen: list[int] = []
    killed = 0.0
    async with asyncio.timeout(30), aclosing(store3.watch(prefix, start)) as batches:
        async for batch in batches:
            seen += [event.kv.mod_revision for event in batch.events]
            if seen and not killed:
                assert len(seen) < 6000, "it is still catching up"
                etcd3.kill9(0)
                killed = time.monotonic()
            if len(seen) >= 6001:
                break
    resumed("kill -9 while catching up on 6,000 revisions, until all are there", time.monotonic() - killed)
    assert seen == sorted(set(seen))
    assert len(seen) == 6001
    assert fragments > 0, "values are large enough for responses in fragments"


async def fill(store: EtcdStore, prefix: str, numbers: range) -> None:
    for number in numbers:
        await store.put(f"{prefix}{number:04}", bytes(3000))


async def test_fifty_puts_with_one_of_three_members_down_are_each_carried_out_once(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note
) -> None:
    await store3.put(prefix + "before", b"")
    etcd3.kill9(0)
    longest = 0.0
    for number in range(50):
        began = time.monotonic()
        await put_surely(store3, f"{prefix}{number:02}", b"")
        longest = max(longest, time.monotonic() - began)
    resumed("the slowest of 50 puts with one of three members down", longest)
    assert longest < 8
    found = (await store3.list(prefix)).items
    assert [item.version for item in found] == [1] * 51


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
    watchers = [Watcher(own_store, prefix, start) for _ in range(200)]
    for watcher in watchers:
        await watcher.until(1)
    assert own_etcd.metric(name) == 200
    for watcher in watchers:
        await watcher.close()
    async with asyncio.timeout(5):
        while own_etcd.metric(name):
            await own_store.get(prefix + "a")


async def test_cancelled_transactions_are_whole_or_not_there_and_disturb_nobody(store: EtcdStore, prefix: str) -> None:
    def pair(number: int) -> list[Operation]:
        return [Put(f"{prefix}a/{number:03}", b""), Put(f"{prefix}b/{number:03}", b"")]

    tasks = [asyncio.create_task(store.transact([], pair(number))) for number in range(256)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # in the midst, however fast the machine is
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in done)
    began = time.monotonic()
    await store.put(prefix + "after", b"")
    assert time.monotonic() - began < 1
    a, b = await store.list(prefix + "a/"), await store.list(prefix + "b/")
    assert [item.mod_revision for item in a.items] == [item.mod_revision for item in b.items]
    acknowledged = {number for number, result in enumerate(done) if not isinstance(result, BaseException)}
    assert acknowledged <= {int(item.key[-3:]) for item in a.items}


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
