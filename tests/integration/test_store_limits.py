"""Etcd's own limits: what is too large, and a database that is full."""

import asyncio

import pytest
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Put, QuotaExceeded, Refused
from integration.etcd_cluster import EtcdCluster, running

MIB = 1 << 20


async def test_what_is_too_large_is_refused_with_a_reason_and_nothing_is_written(store: EtcdStore, prefix: str) -> None:
    for attempt in (
        store.put(prefix + "a", bytes(2 * MIB)),
        store.transact([], [Put(f"{prefix}{n}", bytes(MIB)) for n in range(2)]),
    ):
        with pytest.raises(Refused, match=r"too large.*keep values below 1\.5 MiB"):
            await attempt
    assert (await store.list(prefix)).items == ()
    assert await store.put(prefix + "a", bytes(MIB))


async def test_a_full_database_is_said_and_mended_as_the_message_tells(
    installed: None, prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = EtcdCluster(tmp_path_factory.mktemp("full"), options=["--quota-backend-bytes", str(8 * MIB)])
    with running(cluster):
        async with EtcdStore(cluster.endpoints) as store:
            with pytest.raises(QuotaExceeded, match="etcdctl alarm disarm"):
                await _fill(store, prefix + "a")
            (member,) = await store.status()
            assert any("NOSPACE" in alarm for alarm in member.alarms), member
            assert await store.get(prefix + "a"), "reads go on"
            with pytest.raises(QuotaExceeded):
                await store.transact([], [Put(prefix + "b", b"1")])
            cluster.ctl("compact", str((await store.list(prefix)).revision))
            cluster.ctl("defrag")
            cluster.ctl("alarm", "disarm")
            assert await store.put(prefix + "b", b"1")


async def _fill(store: EtcdStore, key: str) -> None:
    """Puts until etcd refuses, which counts what its batches (100 ms) brought to the disk, not what it acknowledged."""
    for _ in range(100):
        await store.put(key, bytes(MIB))
        await asyncio.sleep(0.05)
