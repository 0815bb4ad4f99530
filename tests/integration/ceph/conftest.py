"""Real Ceph clusters, each made once and shared by the tests that leave them alone."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration.ceph.cluster import CephCluster, ceph_running
from integration.ceph.site import Site, Where
from integration.etcd_cluster import EtcdCluster

_made = 0


@pytest.fixture(scope="session")
def _clusters() -> Iterator[tuple[CephCluster, CephCluster]]:
    """Both are started at once."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        starting = [threads.submit(lambda: stack.enter_context(ceph_running(store="memstore"))) for _ in range(2)]
        yield starting[0].result(), starting[1].result()


@pytest.fixture(scope="session")
def ceph(_clusters: tuple[CephCluster, CephCluster]) -> CephCluster:
    return _clusters[0]


@pytest.fixture(scope="session")
def other_ceph(_clusters: tuple[CephCluster, CephCluster]) -> CephCluster:
    return _clusters[1]


@pytest.fixture(scope="session")
def newest(other_ceph: CephCluster) -> CephCluster:
    """One whose clones are of the new kind: it asks clients for more."""
    other_ceph.ceph("osd", "set-require-min-compat-client", "mimic")
    return other_ceph


@pytest.fixture(autouse=True)
def _tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again after 2 s at most, not after 15 or 20: a test waits for what it is about."""
    monkeypatch.setattr("holdfast.agent.guest.RETRY", 2.0)
    monkeypatch.setattr("holdfast.agent.target.BACK_OFF", (1.0, 2.0))


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
