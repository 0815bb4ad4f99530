"""What is changed of a guest on shared storage is changed under its lock, and Ceph refuses who has lost it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast.agent.ports import LockToken, Refused
from holdfast.agent.storage.rbd import anchor
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.cli.asking import ask_for
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.lock import Lock
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.locks import Held, Locks
from integration.ceph.processes import agents
from integration.ceph.site import MIB, Hand, Site, Where, by_hand, running
from integration.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.timeout(240, func_only=True)


def locks(store: EtcdStore, site: Site, holder: str = "person") -> Locks:
    return Locks(store, site.keys, holder, SystemClock(), ttl=5)


def marks(hand: Hand) -> anchor.Marks:
    found = anchor.read(Pool(hand.connection, hand.io), 101)
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def held(store: EtcdStore, site: Site) -> AsyncIterator[LockToken]:
    """By somebody else, for a restore."""
    got, done = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def keep(held: Held) -> None:
        got.set_result(LockToken(1, *held.tokens.values()))
        await done.wait()

    keeping = asyncio.create_task(locks(store, site).run([101], "a restore", keep))
    try:
        yield await got
    finally:
        done.set()
        await keeping


def holder(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "integration.ceph.lock_holder", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_a_holder_that_was_stopped_past_its_lease_is_refused_by_ceph(
    site: Site, store: EtcdStore, etcd: EtcdCluster
) -> None:
    cluster, _, namespace = site.home
    with by_hand(site.home) as hand:
        pool = Pool(hand.connection, hand.io)
        anchor.make(pool, 101, "alpha")
        child = holder(etcd.endpoints[0], site.keys.cluster, "2", str(cluster.conf), namespace, "101", "alpha", "1")
        try:
            assert child.stdout is not None
            first = LockToken.parse(child.stdout.readline().split()[1])
            assert child.stdout.readline().startswith("marked")
            child.send_signal(signal.SIGSTOP)
            async with held(store, site) as second:
                assert second > first
                anchor.change(pool, 101, "alpha", 1, {"sent.test": "2-1"}, token=second)
                child.send_signal(signal.SIGCONT)
                said = (await asyncio.to_thread(child.communicate, timeout=30))[0].splitlines()
            assert said[-1] == "refused LockLost"
            assert marks(hand).values["sent.test"] == "2-1"
            assert marks(hand).token == second
        finally:
            child.kill()
            child.wait()


def test_what_bears_no_token_is_let_through_and_does_not_forget_the_last(place: Callable[[str], Where]) -> None:
    with by_hand(place("home")) as hand:
        pool = Pool(hand.connection, hand.io)
        anchor.make(pool, 101, "alpha")
        anchor.change(pool, 101, "alpha", 1, {}, token=LockToken(2, 7))
        anchor.change(pool, 101, "alpha", 1, {"sent.beta": "1-1"})
        assert marks(hand).token == LockToken(2, 7)
        with pytest.raises(Refused, match="another holder since"):
            anchor.change(pool, 101, "alpha", 1, {}, token=LockToken(1, 9))  # of a keyspace before it was rebuilt
        anchor.change(pool, 101, "beta", 2, {}, token=LockToken(2, 8))
        assert (marks(hand).epoch, marks(hand).node, marks(hand).token) == (2, "beta", LockToken(2, 8))


async def test_the_owners_marks_bear_the_token_and_the_replicas_none(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home, by_hand(site.away) as away:
            before = marks(home).token
            assert before is not None
            assert marks(away).token is None
            home.write("vm-101-disk-0", os.urandom(MIB))
            await site.progress()
            after = marks(home).token
            assert after is not None
            assert after > before


async def test_an_idle_guests_lock_is_free_and_nobody_asks_for_it(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home:
            home.write("vm-101-disk-0", os.urandom(MIB))
        began = (await store.list(site.keys.lock(101))).revision
        await site.progress()
        for _ in range(10):
            looked = (await store.list(site.keys.lock(101))).revision
            await asyncio.sleep(6)  # two points would be due
            if await events(store, site, looked) == []:
                break
        else:
            raise AssertionError("it is never free")
        busy = await events(store, site, began)
        print(f"a point has {len(busy)} changes of the lock's keys: {busy}")
        assert 0 < len(busy) <= 12


async def events(store: EtcdStore, site: Site, since: int) -> list[str]:
    """What has happened to the guest's lock and its queue."""
    end = await store.put("/test/until-here", b"")
    found: list[str] = []
    async with contextlib.aclosing(store.watch("/", since + 1)) as batches:
        async for batch in batches:
            ours = [event for event in batch.events if event.kv.key.startswith(site.keys.lock(101))]
            found += [f"{event.kind} {event.kv.key.rpartition('/101')[2]}" for event in ours]
            if batch.revision >= end:
                return found
    return found


async def test_a_lock_of_somebody_else_is_told_and_points_go_on_when_it_is_free(
    site: Site, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.locking.PATIENCE", 1.0)
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home:
            async with held(store, site):
                before = home.snapshots("vm-101-disk-0")
                home.write("vm-101-disk-0", os.urandom(MIB))
                message = await site.until(lambda: site.reasons().get("GuestLocked"))
                assert "guest 101 is locked by person for a restore since 20" in message
                assert "It is tried again" in message
                assert home.snapshots("vm-101-disk-0") == before
            await site.progress()
            await site.until(lambda: site.reasons() == {})


async def test_a_copy_is_made_when_the_lock_is_free(
    site: Site, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.locking.PATIENCE", 1.0)
    monkeypatch.setattr("holdfast.agent.requests.RETRY", 1.0)
    await site.define(store)
    connection: Any = SimpleNamespace(keyspace=site.keys)
    async with running(site):
        await site.progress()
        async with held(store, site):
            asking = asyncio.create_task(ask_for(store, connection, 60, "clone", 101, "alpha", at="1-1", name="look"))
            report = site.keys.agent_prefix("alpha") + "requests/"
            while not any(b"locked by person" in item.value for item in (await store.list(report)).items):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert b"holdfast.clones" not in site.rbd(site.home, "ls")
        assert "point 1-1 of guest 101 is there as look" in await asking
        assert site.rbd(site.home, "ls").count(b"holdfast.clones.101-look") == 3


async def test_without_etcd_no_point_is_taken_and_afterwards_they_go_on(
    own_etcd: EtcdCluster, own_store: EtcdStore, tmp_path: Path, place: Callable[[str], Where]
) -> None:
    site = Site(own_etcd.endpoints, tmp_path, place("home"), place("away"))
    await site.define(own_store)
    async with running(site):
        await site.progress()
        own_etcd.kill9(0)
        with by_hand(site.home) as home:
            before = home.snapshots("vm-101-disk-0")
            home.write("vm-101-disk-0", os.urandom(MIB))
            assert "lock" in await site.until(lambda: site.reasons().get("LockUnavailable"))
            assert home.snapshots("vm-101-disk-0") == before
        own_etcd.start(0)
        await site.progress(seconds=60)
        await site.until(lambda: site.reasons() == {})


async def test_an_agent_that_was_stopped_past_its_lease_goes_on_under_a_new_lock(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    with by_hand(site.home) as home, by_hand(site.away) as away, agents(site) as nodes:
        await until(lambda: away_has(away, 1))
        number = 1
        while not await stopped_with_lock(store, site, nodes["alpha"].pid):
            home.write("vm-101-disk-0", number.to_bytes(8, "big"))
            number += 1
        async with held(store, site) as theirs:  # as soon as the agent's lease has run out
            anchor.change(Pool(home.connection, home.io), 101, "alpha", 1, {}, token=theirs)
            os.kill(nodes["alpha"].pid, signal.SIGCONT)
            await asyncio.sleep(1)
            assert marks(home).token == theirs
        home.write("vm-101-disk-0", os.urandom(MIB))
        newest = home.snapshots("vm-101-disk-0")[-1]
        await until(lambda: home.snapshots("vm-101-disk-0")[-1] != newest)
        last = marks(home).token
        assert last is not None
        assert last > theirs


def away_has(away: Hand, points: int) -> bool:
    found = anchor.read(Pool(away.connection, away.io), 101)
    return found is not None and len(found.anchor("x", 101).points) >= points


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def stopped_with_lock(store: EtcdStore, site: Site, pid: int) -> bool:
    """Stop an agent in the midst of what it does under the guest's lock. False: it was quicker, and goes on."""
    await asyncio.sleep(0.005)
    item = await store.get(site.keys.lock(101))
    if item is None:
        return False
    os.kill(pid, signal.SIGSTOP)
    item = await store.get(site.keys.lock(101))
    if item is not None and Lock.model_validate_json(item.value).holder == "alpha":
        return True
    os.kill(pid, signal.SIGCONT)
    return False
