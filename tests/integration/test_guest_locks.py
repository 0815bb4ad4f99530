"""An agent takes the locks of guests on shared storage, and of no others; on a real etcd."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast.agent.locking import GuestLocks
from holdfast.agent.ports import LockToken, Refused
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.locks import Held, Locks

KEYS = Keyspace()


class Node:
    """What an agent knows of guests 110 (a disk on RBD), 111 (on ZFS) and 112 (on ZFS; it was on RBD before)."""

    generation = 3

    def __init__(self, store: EtcdStore, name: str = "alpha", owner: str = "alpha") -> None:
        self._owner = owner
        self.confirmed: list[tuple[str, int, int]] = []
        locks: Any = Locks(store, KEYS, name, SystemClock(), ttl=5)
        view: Any = self
        volumes: Any = SimpleNamespace(raise_epoch=self._confirm)
        scanner: Any = SimpleNamespace(anchors=lambda: {("rbd:home", 110), ("tank", 111), ("rbd:home", 112)})
        self.locks = GuestLocks(name, view, locks, KEYS, volumes, scanner)

    def owner(self, vmid: int) -> Owner:
        return Owner(node=self._owner, epoch=1, since=datetime.now(UTC), by="test")

    def protection(self, vmid: int) -> Any:
        return SimpleNamespace(disks=[SimpleNamespace(dataset="rbd:home/x" if vmid == 110 else "tank/x")])

    async def _confirm(self, pool: str, vmid: int, epoch: int) -> None:
        self.confirmed.append((pool, vmid, epoch))


async def locked(store: EtcdStore, node: Node, vmid: int) -> bool:
    """Whether the guest's lock is held while something is done under it."""
    seen = []

    async def work(waited: bool) -> None:
        assert not waited
        item = await store.get(KEYS.lock(vmid))
        if item is not None:
            assert node.locks.token(vmid) == LockToken(3, item.create_revision)
        seen.append(item is not None)

    await node.locks.run(vmid, "a test", work)
    assert await store.get(KEYS.lock(vmid)) is None
    return seen[0]


async def test_only_guests_that_have_or_had_disks_on_shared_storage_are_locked(store: EtcdStore) -> None:
    node = Node(store)
    assert [await locked(store, node, vmid) for vmid in (110, 111, 112)] == [True, False, True]


async def test_a_replica_is_changed_without_a_lock_and_the_owners_volumes_never_are(store: EtcdStore) -> None:
    assert Node(store, "beta").locks.token(110) is None
    assert not await locked(store, Node(store, "beta"), 110)
    with pytest.raises(Refused, match="not held"):
        Node(store).locks.token(110)


async def test_the_storage_is_asked_only_where_it_is_shared(store: EtcdStore) -> None:
    node = Node(store)
    await node.locks.confirm(112, 1, ["tank", "rbd:home", "rbd:home"])
    assert node.confirmed == [("rbd:home", 112, 1)]
    other = Node(store, "beta")
    await other.locks.confirm(112, 1, ["rbd:home"])
    assert other.confirmed == []


async def test_whoever_waited_is_told_so_and_what_is_done_meanwhile_is_not_held_up_by_the_bound(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.locking.PATIENCE", 1.0)
    node, told = Node(store), asyncio.Event()

    async def theirs(_: Held) -> None:
        told.set()
        await asyncio.sleep(0.5)

    async def work(waited: bool) -> bool:
        await asyncio.sleep(1.5)
        return waited

    other = asyncio.create_task(Locks(store, KEYS, "person", SystemClock(), ttl=5).run([110], "a restore", theirs))
    await told.wait()
    assert await node.locks.run(110, "a point", work)
    await other


async def test_a_lock_that_is_not_free_in_time_is_told_with_its_holder(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.locking.PATIENCE", 0.5)
    node = Node(store)

    async def never(_: bool) -> None:
        raise AssertionError

    async def theirs(_: Held) -> None:
        with pytest.raises(Refused, match=r"110 is locked by person for a restore since 20.* within 15 s") as told:
            await node.locks.run(110, "a point", never)
        assert told.value.reason == "GuestLocked"

    await Locks(store, KEYS, "person", SystemClock(), ttl=5).run([110], "a restore", theirs)
    assert await locked(store, node, 110)
