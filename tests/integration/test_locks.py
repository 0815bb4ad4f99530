"""Locks on a real etcd, with holders that are killed."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.lock_queue import Waiting
from holdfast.coordinator.store.locks import Held, Locks
from holdfast.coordinator.store.port import LeaseLost, Put, created_at
from integration.child import holding
from integration.etcd_cluster import EtcdCluster
from integration.watcher import exists, put_surely, until

KEYS = Keyspace()


def locks(store: EtcdStore, holder: str = "n1", ttl: float = 5) -> Locks:
    return Locks(store, KEYS, holder, SystemClock(), ttl=ttl)


async def queued(store: EtcdStore, vmid: int) -> int:
    return len((await store.list(KEYS.lock_queue(vmid))).items)


async def test_work_is_done_under_the_lock_and_nothing_is_left_of_it(store: EtcdStore, prefix: str) -> None:
    async def work(held: Held) -> str:
        found = await store.get(KEYS.lock(101))
        assert found is not None
        assert held.tokens == {KEYS.lock(101): found.create_revision}
        assert (await held.transact([], [Put(prefix + "a", b"1")])).succeeded
        return "done"

    assert await locks(store).run([101], "a test", work) == "done"
    assert (await store.list(KEYS.lock(101))).items == ()
    with pytest.raises(ValueError, match="work itself"):
        await locks(store).run([101], "a test", _fails)
    assert (await store.list(KEYS.lock(101))).items == ()


async def _fails(_: Held) -> None:
    raise ValueError("work itself")


async def test_a_killed_holders_lock_passes_on_and_its_late_write_is_refused(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    told: list[Waiting] = []
    async with holding(etcd.endpoints, "lock", 110, ttl=2) as child:
        token = int((await child.until("held")).split()[1])
        taken = asyncio.create_task(locks(store).run([110], "to take over", _tokens, told.append))
        await until(lambda: _is(bool(told)))
        (waiting,) = told
        assert waiting.lock is not None
        assert (waiting.lock.holder, waiting.lock.operation, waiting.ahead) == ("child", "a test of stops", 0)
        assert (datetime.now(UTC) - waiting.lock.since).total_seconds() < 10
        assert str(waiting).startswith("guest 110 is locked by child for a test of stops since 20")
        await child.kill9()
        killed = time.monotonic()
        (new,) = (await taken).values()
        print(f"\nlock of a killed holder (TTL 2 s) taken after {time.monotonic() - killed:.1f} s")
        assert time.monotonic() - killed < 2 + 3
    assert new > token
    late = await store.transact([created_at(KEYS.lock(110), token)], [Put(prefix + "late", b"")])
    assert not late.succeeded


async def _tokens(held: Held) -> dict[str, int]:
    return dict(held.tokens)


async def _is(value: bool) -> bool:
    return value


async def test_who_came_first_is_served_first_and_each_knows_how_many_are_before_him(store: EtcdStore) -> None:
    order: list[int] = []
    ahead: dict[int, int] = {}
    release = asyncio.Event()

    async def wait(number: int) -> None:
        async def work(_: Held) -> None:
            order.append(number)

        await locks(store, f"n{number}").run([120], "a test", work, lambda why: ahead.setdefault(number, why.ahead))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(locks(store, "first").run([120], "a test", lambda _: release.wait()))
        await until(lambda: exists(store, KEYS.lock(120)))
        for number in range(6):
            group.create_task(wait(number))
            await until(lambda number=number: _queue_is(store, 120, number + 2))  # type: ignore[misc]
        release.set()
    assert order == list(range(6))
    assert ahead == {number: number for number in range(6)}


async def _queue_is(store: EtcdStore, vmid: int, length: int) -> bool:
    return await queued(store, vmid) == length


@pytest.mark.parametrize("seed", range(3))
async def test_several_locks_taken_in_any_order_exclude_and_never_block_each_other(store: EtcdStore, seed: int) -> None:
    rng = random.Random(seed)
    inside: set[int] = set()

    async def some(number: int) -> None:
        for _ in range(4):
            wanted = rng.sample((13, 130, 131, 1310), rng.randrange(1, 4))

            async def work(_: Held, wanted: Sequence[int] = wanted) -> None:
                assert not inside & set(wanted)
                inside.update(wanted)
                await asyncio.sleep(rng.uniform(0, 0.02))
                inside.difference_update(wanted)

            await locks(store, f"n{number}").run(wanted, "a test", work)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(some(number))


async def test_holders_that_are_killed_at_random_never_write_under_a_lock_that_is_anothers(
    etcd: EtcdCluster, store: EtcdStore
) -> None:
    rng, tokens = random.Random(1), []
    for _ in range(3):
        async with (
            holding(etcd.endpoints, "lock", 140, ttl=1) as one,
            holding(etcd.endpoints, "lock", 140, ttl=1) as two,
        ):
            first = asyncio.create_task(one.until("held"))
            second = asyncio.create_task(two.until("held"))
            done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1
            holder, other = (one, second) if first in done else (two, first)
            tokens.append(int(done.pop().result().split()[1]))
            await asyncio.sleep(rng.uniform(0, 0.5))
            assert not other.done()
            await holder.kill9()
            tokens.append(int((await other).split()[1]))
        stale = await store.transact([created_at(KEYS.lock(140), tokens[-2])], [Put("/late", b"")])
        assert not stale.succeeded
    assert tokens == sorted(set(tokens))


async def test_work_whose_lock_was_removed_by_hand_can_write_nothing_and_is_stopped(
    store: EtcdStore, prefix: str
) -> None:
    async def work(held: Held) -> None:
        await store.delete(KEYS.lock(150))
        await held.transact([], [Put(prefix + "late", b"")])

    with pytest.raises(LeaseLost, match="not held any more"):
        await locks(store).run([150], "a test", work)
    assert await store.get(prefix + "late") is None

    async def sleeps(held: Held) -> None:
        (ticket,) = (await store.list(KEYS.lock_queue(150))).items
        await store.revoke(ticket.lease)
        await asyncio.sleep(20)

    began = time.monotonic()
    with pytest.raises(LeaseLost):
        await locks(store, ttl=2).run([150], "a test", sleeps)
    assert time.monotonic() - began < 4


async def test_a_lock_is_kept_over_the_death_of_a_member_of_etcd(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str
) -> None:
    async def work(held: Held) -> None:
        etcd3.kill9(0)
        await put_surely(store3, prefix + "other", b"")
        await asyncio.sleep(6)
        assert held.valid()
        assert (await held.transact([], [Put(prefix + "a", b"1")])).succeeded

    await locks(store3).run([160], "a test", work)


async def test_who_gives_up_leaves_the_queue_to_the_others(store: EtcdStore) -> None:
    release = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(locks(store).run([170], "a test", lambda _: release.wait()))
        await until(lambda: exists(store, KEYS.lock(170)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await locks(store).run([170], "is given up", _tokens)
        await until(lambda: _queue_is(store, 170, 1))
        release.set()
    assert await locks(store).run([170], "a test", _tokens)
