"""Leases on a real etcd: a process that was stalled finds its own expired before it does anything more."""

import asyncio
import signal
import time

import pytest
from holdfast.coordinator.clock import boottime
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.lease import HeldLease
from holdfast.coordinator.store.port import LeaseLost
from integration.child import holding
from integration.etcd_cluster import EtcdCluster
from integration.watcher import absent_now, until

TTL = 3  # seconds


@pytest.mark.parametrize(("kind", "what"), [("election", "/stalled/leader"), ("lock", 907)])
async def test_a_process_stopped_for_longer_than_its_lease_does_nothing_more(
    etcd: EtcdCluster, store: EtcdStore, kind: str, what: str | int
) -> None:
    await store.delete("/late")
    key = Keyspace().lock(907) if kind == "lock" else str(what)
    async with holding(etcd.endpoints, kind, what, TTL) as child:
        await child.until("held")
        await child.until("effect 5")
        child.send(signal.SIGSTOP)
        await child.drain()
        await until(lambda: absent_now(store, key))
        child.send(signal.SIGCONT)
        # it looks itself, or its work is stopped before; then it may try for a new term
        while not (said := await child.line()).startswith(("expired", "lost", "held")):
            assert not said.startswith("effect"), "the lease is over at etcd"
            assert said, "it ended"
    assert await store.get("/late") is None


async def test_a_process_stopped_for_less_than_its_lease_goes_on(etcd: EtcdCluster) -> None:
    async with holding(etcd.endpoints, "lock", 908, TTL) as child:
        await child.until("effect 5")
        child.send(signal.SIGSTOP)
        await child.drain()
        child.send(signal.SIGCONT)
        assert (await child.line()).startswith("effect")
        began = time.monotonic()
        while time.monotonic() - began < TTL + 1:
            assert (await child.line()).startswith("effect"), "it renews again"


async def test_a_term_counts_from_before_the_request_for_it(store: EtcdStore, prefix: str) -> None:
    times = iter([100.0, 100.5])
    lease = await HeldLease.hold(store, 5, lambda: next(times))
    assert lease.remaining() == pytest.approx(lease.ttl - 0.5)
    await store.revoke(lease.id)


@pytest.mark.parametrize("harm", ["removed", "replaced", "lease taken off"])
async def test_a_renewal_does_not_count_where_the_key_is_no_longer_the_holders(
    store: EtcdStore, prefix: str, harm: str
) -> None:
    key = prefix + "held"
    lease = await HeldLease.hold(store, 3, boottime)
    created = await store.put(key, b"", lease.id)
    if harm == "lease taken off":
        await store.put(key, b"")
    else:
        await store.delete(key)
    if harm == "replaced":
        await store.put(key, b"", lease.id)
    async with asyncio.timeout(3):
        with pytest.raises(LeaseLost, match="removed it or put another"):
            await lease.keep(key, created)
    assert lease.remaining() <= 0
    await lease.release()


async def test_a_renewal_is_proved_through_a_member_that_knows_a_majority(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str
) -> None:
    """The leader of before, cut off with its clients, renews leases that its successor lets expire."""
    key = prefix + "held"
    leader = etcd3.leader()
    async with EtcdStore([etcd3.endpoints[leader]], etcd3.tls) as at_leader:
        lease = await HeldLease.hold(at_leader, 4, boottime)
        created = await at_leader.put(key, b"", lease.id)
        keeping = asyncio.create_task(lease.keep(key, created))
        await asyncio.sleep(2)
        assert lease.remaining() > 2
        for index in {0, 1, 2} - {leader}:
            etcd3.stop(index)
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(8):
                await keeping
        for index in {0, 1, 2} - {leader}:
            etcd3.cont(index)
