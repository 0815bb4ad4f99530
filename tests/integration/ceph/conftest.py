"""Real Ceph clusters, each made once and shared by the tests that leave them alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.ceph.cluster import CephCluster, ceph_running
from integration.ceph.site import Site, Where
from integration.etcd_cluster import EtcdCluster

_made = 0


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephCluster]:
    with ceph_running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def other_ceph() -> Iterator[CephCluster]:
    with ceph_running(store="memstore") as cluster:
        yield cluster


@pytest.fixture
def place(ceph: CephCluster) -> Callable[[str], Where]:
    """A namespace of this test alone, in a pool."""

    def make(kind: str, cluster: CephCluster = ceph, pool: str = "rbd") -> Where:
        global _made
        _made += 1
        name = f"{kind}{_made}"
        cluster.rbd("namespace", "create", "--pool", pool, "--namespace", name)
        return cluster, pool, name

    return make


@pytest.fixture
def site(etcd: EtcdCluster, tmp_path: Path, place: Callable[[str], Where]) -> Site:
    """Namespace to namespace, in one pool."""
    return Site(etcd.endpoints, tmp_path, place("home"), place("away"))
