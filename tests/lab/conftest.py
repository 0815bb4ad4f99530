"""Fixtures of the lab: `lab` is up for the whole session, `hosts` are as new for each test."""

import os
import time
from collections.abc import Generator, Iterator

import pytest
from integration.ceph.cluster import CephCluster, ceph_running

from .autopsy import describe
from .cache import locked, say
from .ceph import POOLS
from .cluster import Cluster
from .host import Host
from .lab import Lab
from .network import GATEWAY
from .recorder import Recorder

# Of a test's own, without fixtures: the first lab of a machine is built for minutes.
_TEST_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS, func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what its hosts were doing then."""
    report = yield
    if report.failed and isinstance(lab := item.funcargs.get("lab"), Lab):
        report.sections += [(f"{host.name} when it failed ({call.when})", describe(host)) for host in lab.hosts]
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two hosts, in whose network this process is from now on. HOLDFAST_LAB_NAME names the lab (else `test`)."""
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "test"))
    with locked(f"session-{lab.name}"):
        started = time.monotonic()
        try:
            lab.up(2, pools=False)
            say(f"up after {time.monotonic() - started:.1f} s")
            yield lab
        finally:
            lab.down()


@pytest.fixture
def hosts(lab: Lab) -> list[Host]:
    """The lab's hosts, as new: on, links whole, nothing of Holdfast running or kept, an empty pool `tank`."""
    lab.reset()
    return lab.hosts


@pytest.fixture
def cluster(lab: Lab, hosts: list[Host]) -> Iterator[Cluster]:
    """Holdfast on the hosts: etcd, coordinator, an agent on each; `tank` is storage `local-zfs`."""
    cluster = Cluster(lab)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def ceph(lab: Lab) -> Iterator[CephCluster]:
    """Beside the hosts, in their network, with the pools of `ceph.POOLS`."""
    with ceph_running(store="memstore", address=GATEWAY) as ceph:
        ceph.make_pool(POOLS["ceph-replica"])
        yield ceph


@pytest.fixture
def recorder(hosts: list[Host]) -> Iterator[Recorder]:
    """A recorder that listens to all hosts; the test fails in the end if two epochs wrote at one time."""
    with Recorder([host.machine for host in hosts]) as recorder:
        yield recorder
    recorder.check()
