"""Images that a real rbd-mirror keeps: told, replicated from where they are primary, and never fought."""

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.agent.ports import Refused
from holdfast.coordinator.cli.explain import words
from holdfast.coordinator.cli.state import load
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.cluster import CephCluster
from integration.ceph.site import MIB, Site, Where, by_hand, running
from integration.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.timeout(180, func_only=True)

POOL = "mirrored"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def peers(ceph: CephCluster, other_ceph: CephCluster) -> Iterator[tuple[CephCluster, CephCluster]]:
    """Both have a pool of one name; what is mirrored on the first comes to the second."""
    for cluster in (ceph, other_ceph):
        cluster.make_pool(POOL)
        cluster.rbd("mirror", "pool", "enable", POOL, "image")
    token = other_ceph.directory / "bootstrap"
    token.write_bytes(ceph.rbd("mirror", "pool", "peer", "bootstrap", "create", "--site-name", "first", POOL))
    other_ceph.rbd("mirror", "pool", "peer", "bootstrap", "import", "--site-name", "second", POOL, str(token))
    with daemon(other_ceph):
        yield ceph, other_ceph


@pytest.fixture
def mirrored(peers: tuple[CephCluster, CephCluster]) -> Where:
    """A namespace of the first in which images can be mirrored."""
    namespace = f"mirrored{next(_numbers)}"
    for cluster in peers:
        cluster.rbd("namespace", "create", "--pool", POOL, "--namespace", namespace)
        cluster.rbd("mirror", "pool", "enable", f"{POOL}/{namespace}", "image")
    return peers[0], POOL, namespace


@contextlib.contextmanager
def daemon(cluster: CephCluster) -> Iterator[None]:
    """rbd-mirror, which brings images to this cluster. It finds its own cluster by CEPH_CONF alone."""
    with (cluster.directory / "log/mirror.out").open("ab") as log:
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "rbd-mirror", "-f", "--id", "admin"]
        mirror = subprocess.Popen(argv, env={**os.environ, "CEPH_CONF": str(cluster.conf)}, stdout=log, stderr=log)
    try:
        yield
    finally:
        mirror.kill()
        mirror.wait()


@pytest.fixture
def site(etcd: EtcdCluster, tmp_path: Path, mirrored: Where, place: Callable[[str], Where]) -> Site:
    """From a namespace that is mirrored to one that is not."""
    return Site(etcd.endpoints, tmp_path, mirrored, place("away"))


def mirror(where: Where, action: str, image: str, *args: str) -> None:
    """`rbd mirror image ACTION`."""
    Site.rbd(where, "mirror", "image", action, "--image", image, *args)


async def told(store: EtcdStore, site: Site) -> list[str]:
    """What `holdfast explain 101` says of rbd-mirror."""
    state = await load(store, site.keys)
    row = next(guest for guest in state.status().guests if guest.vmid == 101)
    return [text for text in words(row, state) if "rbd-mirror" in text]


async def lag_told(store: EtcdStore, site: Site) -> list[str]:
    """The same, once a copy has reported how old it is."""
    async with asyncio.timeout(60):
        while not any(" behind" in text for text in await told(store, site)):  # noqa: ASYNC110 - reports are read
            await asyncio.sleep(0.2)
    return await told(store, site)


async def test_a_disk_that_rbd_mirror_copies_is_replicated_and_the_copys_state_and_lag_are_told(
    site: Site, store: EtcdStore
) -> None:
    await site.define(store)
    with by_hand(site.home) as home:
        home.write("vm-101-disk-0", os.urandom(MIB))
        mirror(site.home, "enable", "vm-101-disk-0", "snapshot")
        async with running(site):
            await site.progress()
            mirror(site.home, "snapshot", "vm-101-disk-0")

            lines = await lag_told(store, site)
            [line] = lines
            assert line.startswith("Disk scsi0 is also kept by rbd-mirror: its image is the primary one; replaying, ")
            before = [name for name in home.snapshots("vm-101-disk-0") if name.startswith("holdfast-")]
            home.write("vm-101-disk-1", os.urandom(MIB))
            await site.progress()
            assert [name for name in home.snapshots("vm-101-disk-0") if name.startswith("holdfast-")] == before
            assert site.reasons().keys() <= {"NotPaused"}, "rbd-mirror has images open as a guest would"


async def test_no_point_is_taken_of_a_copy_that_rbd_mirror_brings(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    with by_hand(site.home) as home:
        for image in site.disks.values():
            mirror(site.home, "enable", image, "snapshot")
        mirror(site.home, "demote", "vm-101-disk-1")
        async with running(site):
            await site.until(lambda: "NotPrimary" in site.reasons())
            assert "promote it first" in site.reasons()["NotPrimary"]
            assert all("not the primary one" in line for line in await told(store, site) if "scsi1" in line)
            assert not any(name.startswith("holdfast-") for name in home.snapshots("vm-101-disk-1"))
            mirror(site.home, "promote", "vm-101-disk-1", "--force")
            await site.progress(seconds=60)


async def test_a_replica_that_somebody_has_mirrored_is_never_received_into(
    etcd: EtcdCluster, store: EtcdStore, tmp_path: Path, mirrored: Where, place: Callable[[str], Where]
) -> None:
    site = Site(etcd.endpoints, tmp_path, place("home"), mirrored)
    await site.define(store)
    with by_hand(site.home) as home, by_hand(site.away) as away:
        async with running(site):
            await site.progress()
            mirror(site.away, "enable", "vm-101-disk-1", "snapshot")
            before = away.read("vm-101-disk-1")
            home.write("vm-101-disk-1", os.urandom(MIB))
            await site.until(lambda: "Mirrored" in site.reasons())
            await asyncio.sleep(3)  # tried again meanwhile
            assert "kept by rbd-mirror" in site.reasons()["Mirrored"]
            assert away.read("vm-101-disk-1") == before
            with pytest.raises(Refused, match="kept by rbd-mirror"):
                await site.volumes["beta"].set_aside("rbd:away/vm-101-disk-1", 101, 1)
            mirror(site.away, "disable", "vm-101-disk-1")
            await site.progress(seconds=60)
