"""Reads, writes and transactions against a real etcd."""

import pytest
from holdfast.coordinator.store import client
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import (
    Delete,
    Get,
    LeaseLost,
    Put,
    absent,
    created_at,
    unchanged,
    value_is,
)
from integration.etcd_cluster import EtcdCluster


async def test_a_key_is_written_read_and_deleted(store: EtcdStore, prefix: str) -> None:
    key = prefix + "a"
    assert await store.get(key) is None
    first = await store.put(key, b"one")
    second = await store.put(key, b"\x00\xff")
    found = await store.get(key)
    assert found is not None
    assert (found.key, found.value, found.create_revision, found.mod_revision) == (key, b"\x00\xff", first, second)
    assert (found.version, found.lease) == (2, 0)
    assert await store.delete(key)
    assert not await store.delete(key)
    assert await store.get(key) is None


async def test_a_listing_holds_exactly_its_prefix_in_order(store: EtcdStore, prefix: str) -> None:
    for name in ("b/2", "b/1", "b", "b0", "a"):
        await store.put(prefix + name, name.encode())
    listing = await store.list(prefix + "b/")
    assert [item.value for item in listing.items] == [b"b/1", b"b/2"]
    assert (await store.list(prefix + "nothing/")).items == ()


async def test_a_listing_in_pages_is_of_one_revision(
    etcd: EtcdCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGE_BYTES", 1000)
    async with EtcdStore(etcd.endpoints, page=7) as store:
        for number in range(50):
            await store.put(f"{prefix}{number:03}", b"%d" % number)
        listing = await store.list(prefix)
        assert [item.value for item in listing.items] == [b"%d" % number for number in range(50)]
        assert listing.revision >= max(item.mod_revision for item in listing.items)


async def test_a_transaction_is_carried_out_only_if_every_compare_holds(store: EtcdStore, prefix: str) -> None:
    a, b = prefix + "a", prefix + "b"
    created = await store.transact([absent(a)], [Put(a, b"1"), Put(b, b"1")])
    assert (created.succeeded, created.results) == (True, (None, None))

    again = await store.transact([absent(a)], [Put(a, b"2")], [Get(a), Get(prefix + "none")])
    assert not again.succeeded
    assert again.results[0] is not None
    assert (again.results[0].value, again.results[0].create_revision) == (b"1", created.revision)
    assert again.results[1] is None

    for compares in ([unchanged(a, created.revision + 1)], [created_at(a, 1)], [value_is(a, b"x")]):
        held = await store.transact([created_at(b, created.revision), *compares], [Delete(a)])
        assert not held.succeeded
    moved = await store.transact(
        [unchanged(a, created.revision), created_at(a, created.revision), value_is(a, b"1")], [Put(a, b"2"), Delete(b)]
    )
    assert moved.succeeded
    assert [item.value for item in (await store.list(prefix)).items] == [b"2"]


async def test_a_transaction_that_is_too_long_is_refused_before_it_is_sent(store: EtcdStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="101 operations"):
        await store.transact([], [Put(f"{prefix}{n}", b"") for n in range(101)])


async def test_a_write_under_an_unknown_lease_is_refused(store: EtcdStore, prefix: str) -> None:
    with pytest.raises(LeaseLost):
        await store.put(prefix + "a", b"", lease=12345)


async def test_status_names_every_member_and_those_that_are_away(etcd: EtcdCluster) -> None:
    async with EtcdStore([*etcd.endpoints, "127.0.0.1:9"]) as store:
        here, away = await store.status()
        assert here.version.startswith("3.")
        assert here.is_leader
        assert here.error is None
        assert away.error
