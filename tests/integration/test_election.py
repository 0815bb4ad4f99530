"""Election on a real etcd: one leader, and a deposed one can write nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.election import Election, Leadership
from holdfast.coordinator.store.port import Put
from integration.etcd_cluster import EtcdCluster


class Candidate:
    """A candidate whose leadership a test can look at."""

    def __init__(self, store: EtcdStore, key: str, name: str, ttl: float) -> None:
        self.name = name
        self.terms: list[Leadership] = []
        self.leading = asyncio.Event()
        self.deposed = asyncio.Event()
        self.resign = asyncio.Event()
        self._election = Election(store, key, name, ttl=ttl)

    async def run(self) -> None:
        await self._election.run(self._lead)

    async def _lead(self, leadership: Leadership) -> None:
        self.terms.append(leadership)
        self.leading.set()
        try:
            await self.resign.wait()
        finally:
            self.leading.clear()
            self.deposed.set()


@contextlib.asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(candidate.run()) for candidate in candidates]
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def leader_of(*candidates: Candidate) -> Candidate:
    waiting = [asyncio.create_task(candidate.leading.wait()) for candidate in candidates]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return next(candidate for candidate in candidates if candidate.leading.is_set())


async def test_when_the_leaders_lease_dies_another_leads_and_the_old_one_can_write_nothing(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    key, owner = prefix + "leader", prefix + "owners/101"
    a, b = Candidate(store, key, "a", 3), Candidate(store, key, "b", 3)
    async with running(a, b):
        first = await leader_of(a, b)
        second = b if first is a else a
        old = first.terms[0]
        assert old.valid()
        assert (await store.transact([old.guard], [Put(owner, b"1")])).succeeded
        await asyncio.sleep(0.2)
        assert not second.leading.is_set()

        etcd.ctl("lease", "revoke", f"{old.lease.id:x}")
        await asyncio.wait_for(second.leading.wait(), 5)
        assert not (await store.transact([old.guard], [Put(owner, b"old")])).succeeded
        new = second.terms[0]
        assert new.token > old.token
        assert (await store.transact([new.guard], [Put(owner, b"2")])).succeeded
        await asyncio.wait_for(first.deposed.wait(), 5)
        assert not old.valid()
    found = await store.get(owner)
    assert found is not None
    assert found.value == b"2"
    assert await store.get(key) is None, "whoever stops takes its key along"


async def test_a_leader_whose_key_was_removed_stops_leading(etcd: EtcdCluster, store: EtcdStore, prefix: str) -> None:
    a = Candidate(store, prefix + "leader", "a", 3)
    async with running(a):
        await a.leading.wait()
        etcd.ctl("del", prefix + "leader")
        await asyncio.wait_for(a.deposed.wait(), 5)
        await a.leading.wait()
        assert len(a.terms) == 2


async def test_a_leader_that_cannot_renew_stops_before_its_lease_ends_at_the_store(
    own_etcd: EtcdCluster, own_store: EtcdStore, prefix: str
) -> None:
    a = Candidate(own_store, prefix + "leader", "a", 3)
    async with running(a):
        await a.leading.wait()
        own_etcd.stop(0)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(a.deposed.wait(), 5)
        assert asyncio.get_running_loop().time() - began <= 3.2
        assert not a.terms[0].valid()
        own_etcd.cont(0)


async def test_a_leader_key_without_a_lease_does_not_block_the_election(store: EtcdStore, prefix: str) -> None:
    await store.put(prefix + "leader", b"somebody who restored a backup")
    a = Candidate(store, prefix + "leader", "a", 2)
    began = asyncio.get_running_loop().time()
    async with running(a):
        await a.leading.wait()
        assert asyncio.get_running_loop().time() - began >= 2, "whoever led under it has noticed by then"
        await store.put(prefix + "leader", b"overwritten without a lease")
        await asyncio.wait_for(a.deposed.wait(), 5)
        await asyncio.wait_for(a.leading.wait(), 10)
        assert a.terms[1].token > a.terms[0].token


async def test_a_leader_that_resigns_makes_room_at_once(store: EtcdStore, prefix: str) -> None:
    a, b = (Candidate(store, prefix + "leader", name, 30) for name in "ab")
    async with running(a, b):
        first = await leader_of(a, b)
        second = b if first is a else a
        first.resign.set()
        await asyncio.wait_for(second.leading.wait(), 5)


async def test_an_error_of_the_leaders_work_is_not_swallowed(store: EtcdStore, prefix: str) -> None:
    async def fails(_: Leadership) -> None:
        raise ValueError("work")

    with pytest.raises(ExceptionGroup) as caught:
        await Election(store, prefix + "leader", "a", ttl=5).run(fails)
    assert caught.group_contains(ValueError, match="work")
    assert await store.get(prefix + "leader") is None
