"""Members that serve an old revision, and a cluster that was restored from an old backup."""

import asyncio
import shutil
from pathlib import Path

import pytest
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Listing, WentBack
from integration.etcd_cluster import EtcdCluster
from integration.proxy import behind_proxy
from integration.watcher import watching

QUICK = Patience(total=1)


async def test_a_member_that_sends_events_again_is_not_believed(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    for number in range(10):
        start = await store.put(f"{prefix}{number}", b"%d" % number)
    async with behind_proxy(etcd.endpoints[0]) as proxy, EtcdStore([proxy.endpoint]) as other:
        proxy.again = 5
        async with watching(other, prefix, start) as watcher:
            await store.put(prefix + "a", b"10")
            assert await watcher.until(2) == [b"9", b"10"]
        assert "/etcdserverpb.Watch/Watch" in proxy.asked


async def test_a_member_that_has_stayed_behind_is_left_for_another(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    old = await store.put(prefix + "a", b"old")
    async with behind_proxy(etcd.endpoints[0]) as proxy, EtcdStore([proxy.endpoint, *etcd.endpoints]) as other:
        new = await other.put(prefix + "a", b"new")
        proxy.at = old
        found = await other.get(prefix + "a")
        assert found is not None
        assert found.value == b"new"
        assert proxy.asked.count("/etcdserverpb.KV/Range") == 1
        # now only the watch is at the member that is behind
        async with EtcdStore([proxy.endpoint, *etcd.endpoints]) as third, watching(third, prefix, new + 1) as watcher:
            await store.put(prefix + "b", b"1")
            assert await watcher.until(1, seconds=5) == [b"1"]


async def test_where_every_member_is_behind_it_is_said_and_nothing_old_is_delivered(
    etcd: EtcdCluster, store: EtcdStore, prefix: str
) -> None:
    old = await store.put(prefix + "a", b"old")
    async with behind_proxy(etcd.endpoints[0]) as proxy, EtcdStore([proxy.endpoint], patience=QUICK) as other:
        start = await other.put(prefix + "a", b"new") + 1
        proxy.at = old
        with pytest.raises(WentBack, match=f"at revision {old} but was at {start - 1}"):
            await other.get(prefix + "a")
        async with watching(other, prefix, start) as watcher, asyncio.timeout(10):
            with pytest.raises(WentBack, match="restored from an old backup"):
                await watcher.task
        assert watcher.events == []


async def test_an_etcd_that_is_restored_from_a_backup_is_refused_by_whoever_knew_it_before(
    own_etcd: EtcdCluster, prefix: str, tmp_path: Path
) -> None:
    async with EtcdStore(own_etcd.endpoints, patience=QUICK) as store:
        await store.put(prefix + "a", b"1")
        own_etcd.kill9(0)
        await asyncio.to_thread(shutil.copytree, own_etcd.data(), tmp_path / "backup")
        await asyncio.to_thread(own_etcd.start_all)
        cache = Cache(store, prefix)
        running = asyncio.create_task(cache.run())
        for number in range(5):
            last = await store.put(prefix + "b", b"%d" % number)
        await cache.changed(last - 1)
        own_etcd.kill9(0)
        await asyncio.to_thread(shutil.rmtree, own_etcd.data())
        await asyncio.to_thread(shutil.copytree, tmp_path / "backup", own_etcd.data())
        await asyncio.to_thread(own_etcd.start_all)
        with pytest.raises(WentBack):
            await store.get(prefix + "a")
        with pytest.raises(WentBack, match="Stop Holdfast on all nodes"):
            await store.put(prefix + "c", b"")
        with pytest.raises(WentBack):
            async with asyncio.timeout(20):
                await running
        assert cache.get(prefix + "b") is not None, "what was known stays"


async def test_what_the_cache_may_load_is_judged_by_who_made_it(store: EtcdStore, prefix: str) -> None:
    async def refuse() -> None:
        def admit(listing: Listing) -> None:
            raise WentBack(f"known: {len(listing.items)}")

        await Cache(store, prefix, admit=admit).run()

    await store.put(prefix + "a", b"")
    with pytest.raises(WentBack, match="known: 1"):
        await refuse()
