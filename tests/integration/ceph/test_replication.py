"""Real agents replicate a guest's three images from one Ceph pool, namespace or cluster to another."""

from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.cluster import CephCluster
from integration.ceph.site import Site, Where, reading, running, writing
from integration.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.timeout(180)


async def same_at_every_point(site: Site) -> int:
    """Compare every complete point on beta with its source; how many there were."""
    scan, source = await site.scan("beta"), await site.scan("alpha")
    points = {p.id: p for p in source.complete_points(101)}
    compared = 0
    with reading(site.home) as home, reading(site.away) as away:
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
        assert site.reasons() == {}
