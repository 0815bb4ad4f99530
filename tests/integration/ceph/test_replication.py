"""Real agents replicate a guest's three images from one Ceph pool, namespace or cluster to another."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.cluster import CephCluster
from integration.ceph.site import MIB, Site, Where, by_hand, running, writing
from integration.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.timeout(180, func_only=True)


async def same_at_every_point(site: Site) -> int:
    """Compare every complete point on beta with its source; how many there were."""
    scan, source = await site.scan("beta"), await site.scan("alpha")
    points = {p.id: p for p in source.complete_points(101)}
    compared = 0
    with by_hand(site.home) as home, by_hand(site.away) as away:
        for point in scan.complete_points(101):
            for member in point.members if point.id in points else ():
                image = member.dataset.partition("/")[2]
                assert home.read(image, member.snapshot) == away.read(image, member.snapshot), member.full_name
                compared += 1
    return compared


@pytest.mark.parametrize("way", ["namespace", "pool", "cluster"])
async def test_a_guest_is_replicated_and_its_points_have_the_sources_bytes(
    way: str,
    etcd: EtcdCluster,
    store: EtcdStore,
    tmp_path: Path,
    ceph: CephCluster,
    other_ceph: CephCluster,
    place: Callable[..., Where],
) -> None:
    if way == "pool":
        ceph.make_pool("second")
    away = {
        "namespace": lambda: place("away"),
        "pool": lambda: (ceph, "second", ""),
        "cluster": lambda: place("away", other_ceph),
    }[way]()
    site = Site(etcd.endpoints, tmp_path, place("home"), away)
    await site.define(store)
    async with running(site):
        with writing(site.home, list(site.disks.values())):
            await site.progress(3)
        assert await same_at_every_point(site) >= 3
        assert site.reasons().keys() <= {"NotPaused"}, "the writer has no monitor"


async def test_a_guest_without_a_definition_is_replicated(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    disks = {slot: {"volume": f"home:{image}"} for slot, image in site.disks.items()}
    await site.put(store, "guests", 101, {"type": "qemu", "node": "alpha", "disks": disks})
    async with running(site):
        await site.progress()
        assert [p.definition for p in (await site.scan()).complete_points(101)]
        assert site.reasons() == {}


async def test_points_are_called_paused_only_while_no_client_writes_unseen(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        (off,) = (await site.scan("alpha")).complete_points(101)
        assert off.consistency is Consistency.PAUSED, "it is off: nobody has its images open"
        with writing(site.home, list(site.disks.values())):
            await site.until(lambda: "its images are open at 127.0.0.1:0/" in site.reasons().get("NotPaused", ""))
            await site.progress(2)
        newest = (await site.scan("alpha")).complete_points(101)[-1]
        assert newest.consistency is not Consistency.PAUSED


async def test_only_what_was_written_is_sent(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    wire = site.wires["alpha"]
    with by_hand(site.home) as home:
        for image in site.disks.values():
            home.write(image, os.urandom(16 * MIB))
        async with running(site):
            await site.progress()
            for _ in range(3):
                before = wire.sent()
                for number, image in enumerate(site.disks.values()):
                    home.write(image, os.urandom(MIB), number * 5 * MIB)
                await site.progress()
                assert wire.sent() - before <= 1.2 * 3 * MIB + MIB


async def test_nothing_is_snapshotted_while_nothing_is_written(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home:
            before = home.snapshots("vm-101-disk-0")
            await site.until(lambda: site.agents["alpha"].guests[101].state.unchanged_at, 30)
            assert home.snapshots("vm-101-disk-0") == before


async def test_a_disk_that_was_not_written_is_not_snapshotted_again(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    async with running(site):
        await site.progress()
        with by_hand(site.home) as home:
            home.write("vm-101-disk-0", b"changed")
            await site.progress()
            assert "holdfast-1-2" in home.snapshots("vm-101-disk-0")
            assert home.snapshots("vm-101-disk-1") == ["holdfast-1-1"]
        assert await same_at_every_point(site) >= 3


async def test_a_cut_stream_leaves_the_points_as_they_were_and_goes_on_incrementally(
    site: Site, store: EtcdStore
) -> None:
    await site.define(store, bandwidth=4 * MIB)
    wire = site.wires["alpha"]
    with by_hand(site.home) as home:
        async with running(site):
            await site.progress()
            home.write("vm-101-disk-1", os.urandom(16 * MIB))
            before = wire.sent()
            await site.until(lambda: wire.sent() - before > 4 * MIB)
            wire.cut()
            await site.until(lambda: "TransferFailed" in site.reasons() or "TargetUnreachable" in site.reasons())
            scan = await site.scan()
            cut = scan.volumes["rbd:away/vm-101-disk-1"]
            assert [str(p.id) for p in scan.complete_points(101)] == ["1-1"]
            assert cut.resume_token
            assert [s.name for s in cut.snapshots] == ["holdfast-1-1"]
            again = wire.sent()
            await site.progress()
            assert wire.sent() - again <= 1.2 * 16 * MIB + MIB
            assert await same_at_every_point(site) >= 3


async def test_a_first_stream_that_was_cut_is_begun_again(site: Site, store: EtcdStore) -> None:
    await site.define(store, bandwidth=4 * MIB)
    wire = site.wires["alpha"]
    with by_hand(site.home) as home:
        home.write("vm-101-disk-0", os.urandom(16 * MIB))
        async with running(site):
            await site.until(lambda: wire.sent() > 4 * MIB)
            wire.cut()
            home.write("vm-101-disk-0", bytes(16 * MIB))  # what had arrived must not shine through
            await site.progress(2)
            assert await same_at_every_point(site) >= 3
            assert home.snapshots("vm-101-disk-0")[-1] == "holdfast-1-2"


async def test_an_agent_that_dies_in_mid_stream_goes_on_after_its_restart(site: Site, store: EtcdStore) -> None:
    await site.define(store, bandwidth=4 * MIB)
    wire = site.wires["alpha"]
    with by_hand(site.home) as home:
        async with running(site):
            await site.progress()
            home.write("vm-101-disk-1", os.urandom(16 * MIB))
            before = wire.sent()
            await site.until(lambda: wire.sent() - before > 4 * MIB)
            await site.stop("beta")
            site.start("beta")
            await site.progress(seconds=60)
            assert await same_at_every_point(site) >= 3


@pytest.mark.parametrize("size", ["96M", "32M"], ids=["grown", "shrunk"])
async def test_a_replica_follows_a_disk_that_is_resized(site: Site, store: EtcdStore, size: str) -> None:
    await site.define(store)
    with by_hand(site.home) as home:
        home.write("vm-101-disk-0", os.urandom(MIB), 60 * MIB)
        async with running(site):
            await site.progress()
            site.rbd(site.home, "resize", "--allow-shrink", "--no-progress", "--size", size, "--image", "vm-101-disk-0")
            await site.progress()
            resized = (await site.scan()).volumes["rbd:away/vm-101-disk-0"]
            assert resized.size == int(size[:-1]) * MIB
            assert await same_at_every_point(site) >= 3
            assert site.reasons() == {}


async def test_a_guest_that_was_rolled_back_by_hand_is_replicated_as_it_is_then(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    with by_hand(site.home) as home:
        home.write("vm-101-disk-0", b"first")
        site.rbd(site.home, "snap", "create", "--no-progress", "--image", "vm-101-disk-0", "--snap", "before-upgrade")
        home.write("vm-101-disk-0", b"later")
        async with running(site):
            await site.progress()
            before = site.wires["alpha"].sent()
            back = ("snap", "rollback", "--no-progress", "--image", "vm-101-disk-0", "--snap", "before-upgrade")
            site.rbd(site.home, *back)
            await site.progress()
            assert site.wires["alpha"].sent() - before < 2 * 4 * MIB
            with by_hand(site.away) as away:
                assert away.read("vm-101-disk-0", "holdfast-1-2", 5) == b"first"
            assert site.reasons() == {}
