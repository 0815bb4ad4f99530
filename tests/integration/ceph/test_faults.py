"""What goes wrong on Ceph is said within a bound, the rest goes on, and afterwards everything converges."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.rbd import anchor, binding
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import THREADS, Cluster, Pool
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.cluster import CephCluster, ceph_running, free_address
from integration.ceph.site import MIB, Site, Where, by_hand, running, writing
from integration.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.timeout(240, func_only=True)

BOUND = 30.0
"""Seconds until a fault is told, where a mon or an OSD has 3 or 5 s to answer (the agent's default is 15)."""


@pytest.fixture(scope="module")
def harmed() -> Iterator[CephCluster]:
    """One to be harmed: its OSD keeps its data over a kill -9."""
    with ceph_running(store="bluestore") as cluster:
        yield cluster


@pytest.fixture
def own_ceph(harmed: CephCluster) -> Iterator[CephCluster]:
    """It is whole again for the next test."""
    yield harmed
    harmed.repair()


@pytest.fixture
def own_site(etcd: EtcdCluster, tmp_path: Path, own_ceph: CephCluster, place: Callable[..., Where]) -> Site:
    """From a cluster that can be harmed to one that is shared."""
    return Site(etcd.endpoints, tmp_path, place("home", own_ceph), place("away"), timeout=3)


async def told(site: Site, *reasons: str, within: float = BOUND) -> str:
    """Wait until one of these conditions is told; its message."""

    def found() -> str | None:
        return next((message for reason, message in site.reasons().items() if reason in reasons), None)

    began = time.monotonic()
    message = str(await site.until(found, within))
    print(f"told after {time.monotonic() - began:.1f} s: {message}")
    return message


async def test_calls_that_hang_leave_the_storage_to_others(place: Callable[..., Where], tmp_path: Path) -> None:
    cluster, pool, namespace = place("home")
    (tmp_path / "home.keyring").write_bytes(cluster.keyring.read_bytes())
    properties = {"pool": pool, "namespace": namespace, "monhost": cluster.address}
    storage = Storage(type="rbd", shared=True, properties=properties)
    connected = Cluster(Access.of("home", storage, tmp_path, Path("/nonexistent"), 15))
    over = threading.Event()
    try:
        for _ in range(THREADS + 1):
            with pytest.raises(VolumesError, match="did not end it within"):
                await connected.call("hang", lambda _: over.wait(), 0.2)
        assert await connected.call("look", lambda seen: seen.fsid, 20)
    finally:
        over.set()
        connected.close()


async def test_a_killed_osd_is_told_and_afterwards_points_go_on(
    own_site: Site, own_ceph: CephCluster, store: EtcdStore
) -> None:
    await own_site.define(store)
    async with running(own_site):
        await own_site.progress()
        own_ceph.kill9("osd")
        await told(own_site, "StorageFailed")
        await own_site.until(lambda: "does not answer in time" in own_site.reasons()["StorageFailed"])
        own_ceph.start("osd")
        own_ceph.wait_healthy()
        with by_hand(own_site.home) as home:
            home.write("vm-101-disk-0", os.urandom(MIB))
        await own_site.progress(seconds=60)
        await own_site.until(lambda: own_site.reasons() == {})


async def test_an_osd_that_is_killed_in_mid_stream_costs_no_full_send(
    own_site: Site, own_ceph: CephCluster, store: EtcdStore
) -> None:
    await own_site.define(store, bandwidth=4 * MIB)
    wire = own_site.wires["alpha"]
    async with running(own_site):
        await own_site.progress()
        with by_hand(own_site.home) as home:
            home.write("vm-101-disk-1", os.urandom(16 * MIB))
        before = wire.sent()
        await own_site.until(lambda: wire.sent() - before > 2 * MIB)
        own_ceph.kill9("osd")
        await told(own_site, "StorageFailed", "TransferFailed", "TargetUnreachable", within=60)
        own_ceph.start("osd")
        own_ceph.wait_healthy()
        await own_site.progress(seconds=90)
        assert wire.sent() - before <= 2 * (1.2 * 16 * MIB + MIB)


async def test_a_mon_that_is_frozen_for_some_seconds_is_told_and_survived(
    own_site: Site, own_ceph: CephCluster, store: EtcdStore
) -> None:
    await own_site.define(store)
    async with running(own_site):
        await own_site.progress()
        with by_hand(own_site.home) as home:
            home.write("vm-101-disk-0", os.urandom(MIB))
        own_ceph.stop("mon")
        await told(own_site, "StorageFailed", within=60)
        own_ceph.cont("mon")
        own_ceph.wait_healthy()
        await own_site.progress(seconds=90)


async def test_a_wrong_key_and_a_missing_pool_are_told_by_name_and_other_storages_go_on(
    site: Site, store: EtcdStore
) -> None:
    await site.define(store)
    right = site.keyring("beta", "away").read_bytes()
    site.keyring("beta", "away").write_bytes(b"[client.admin]\n\tkey = AQBqiCFlAAAAABAAb3Zlcndyb25na2V5MTIzNA==\n")
    missing = {"pool": "nowhere", "monhost": site.home[0].address}
    await site.put(store, "storage", "gone", {"type": "rbd", "shared": True, "properties": missing})
    for node in site.ports:
        site.keyring(node, "gone").write_bytes(right)
    async with running(site):
        message = await told(site, "StorageFailed")
        assert "refuses the key of client.admin" in message
        scan = await site.scan("alpha")
        assert "pool nowhere does not exist" in scan.failed["rbd:gone"]
        assert len(scan.volumes) == 3
        site.keyring("beta", "away").write_bytes(right)
        await site.progress(seconds=60)


async def test_a_storage_whose_mon_is_silent_holds_up_no_other(site: Site, store: EtcdStore) -> None:
    site.timeout = 3
    await site.define(store)
    with socket.create_server((address := free_address(), 3300)):  # it takes connections, and says nothing
        properties = {"pool": "rbd", "monhost": address}
        await site.put(store, "storage", "silent", {"type": "rbd", "shared": True, "properties": properties})
        for node in site.ports:
            site.keyring(node, "silent").write_bytes(site.home[0].keyring.read_bytes())
        async with running(site):
            await site.progress(seconds=60)
            began = time.monotonic()
            scan = await site.scan("alpha")
            assert "no mon" in scan.failed["rbd:silent"]
            assert time.monotonic() - began < 3
            with by_hand(site.home) as home:
                home.write("vm-101-disk-0", os.urandom(MIB))
            await site.progress()
            assert site.reasons() == {}


async def test_a_pool_that_is_full_is_told_and_its_points_stay(
    etcd: EtcdCluster, store: EtcdStore, tmp_path: Path, ceph: CephCluster, place: Callable[[str], Where]
) -> None:
    ceph.make_pool("small")
    site = Site(etcd.endpoints, tmp_path, place("home"), (ceph, "small", ""))
    await site.define(store)
    with by_hand(site.home) as home:
        home.write("vm-101-disk-1", os.urandom(16 * MIB))
        async with running(site):
            await site.progress()
            set_quota(ceph, "small", 4 * MIB)
            home.write("vm-101-disk-0", os.urandom(16 * MIB))
            await told(site, "TransferFailed", "StorageFailed", within=90)
            scan = await site.scan()
            assert [str(p.id) for p in scan.complete_points(101)] == ["1-1"]
            set_quota(ceph, "small", 0)
            await site.progress(seconds=90)
            await site.until(lambda: site.reasons() == {})


def set_quota(cluster: CephCluster, pool: str, size: int) -> None:
    """Bound a pool's size, and wait until the OSD acts by it; 0 lifts the bound."""
    cluster.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(size))
    deadline = time.monotonic() + 60
    while ("full" in flags_of(cluster, pool)) != bool(size):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def flags_of(cluster: CephCluster, pool: str) -> list[str]:
    pools = cluster.ceph("osd", "dump")["pools"]
    return str(next(p["flags_names"] for p in pools if p["pool_name"] == pool)).split(",")


async def test_a_replica_that_was_written_to_is_left_alone_and_told(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.away) as away, by_hand(site.home) as home:
            away.write("vm-101-disk-1", b"by somebody", 5 * MIB)
            home.write("vm-101-disk-1", os.urandom(MIB))
            await told(site, "ReplicaModified")
            assert away.read("vm-101-disk-1")[5 * MIB : 5 * MIB + 11] == b"by somebody"
            with binding.rbd().Image(away.io, "vm-101-disk-1") as image:
                image.rollback_to_snap("holdfast-1-1")
        await site.progress(seconds=60)


async def test_an_image_that_is_not_ours_is_never_received_into(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    site.rbd(site.away, "create", "--size", "8M", "--image", "vm-101-disk-1")
    async with running(site):
        assert "vm-101-disk-1" in await told(site, "TargetOccupied")
        assert "holdfast" not in site.rbd(site.away, "image-meta", "ls", "--image", "vm-101-disk-1").decode()
        site.rbd(site.away, "rename", "--image", "vm-101-disk-1", "--dest", "kept")
        await site.progress(seconds=60)
    assert b"kept" in site.rbd(site.away, "ls")


async def test_a_lock_of_somebody_on_a_replica_is_told_and_left_alone(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        site.rbd(site.away, "lock", "add", "--image", "vm-101-disk-0", "somebody")
        with by_hand(site.home) as home:
            home.write("vm-101-disk-0", os.urandom(MIB))
        await told(site, "TransferFailed", "StorageFailed", within=100)
        locks = site.rbd(site.away, "lock", "ls", "--image", "vm-101-disk-0").decode()
        assert "somebody" in locks
        locker = next(line.split()[0] for line in locks.splitlines() if "somebody" in line)
        site.rbd(site.away, "lock", "rm", "--image", "vm-101-disk-0", "somebody", locker)
        await site.progress(seconds=90)


async def test_snapshots_of_others_stay_and_break_nothing(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    where = site.home[1:]
    async with running(site):
        with writing(site.home, list(site.disks.values())):
            await site.progress()
            for image in site.disks.values():
                site.rbd(site.home, "snap", "create", "--image", image, "--snap", "before-upgrade")
            await site.progress(3)
        with by_hand(site.home) as home, by_hand(site.away) as away:
            for image in site.disks.values():
                assert "before-upgrade" in home.snapshots(image), where
                assert "before-upgrade" not in away.snapshots(image)
            assert len(home.snapshots("vm-101-disk-0")) <= 5


async def test_a_snapshot_that_somebody_has_cloned_stays_and_points_go_on(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home:
            rbd = binding.rbd()
            home.connection.conf_set("rbd_default_clone_format", "1")  # the kind that needs a protected snapshot
            rbd.RBD().clone(home.io, "vm-101-disk-0", "holdfast-1-1", home.io, "fetch")
            for _ in range(2):
                home.write("vm-101-disk-0", os.urandom(MIB))
                await site.progress()
            await told(site, "CleanupFailed")
            assert "holdfast-1-1" in home.snapshots("vm-101-disk-0")
            rbd.RBD().remove(home.io, "fetch")
            home.write("vm-101-disk-0", os.urandom(MIB))
            await site.progress()
            await site.until(lambda: "holdfast-1-1" not in home.snapshots("vm-101-disk-0"))
            await site.until(lambda: site.reasons() == {})


async def test_a_stale_owner_changes_nothing(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        volumes = site.volumes["beta"]
        with by_hand(site.home) as home:
            anchor.change(Pool(home.connection, home.io), 101, "alpha", 7, {})
            home.write("vm-101-disk-0", b"x")
            assert "epoch 7" in await told(site, "EpochRefused")
            assert all(name in ("holdfast-1-1",) for name in home.snapshots("vm-101-disk-0"))
        with pytest.raises(VolumesError, match="is looked for again"):
            await volumes.raise_epoch("rbd:home", 999, 1)
