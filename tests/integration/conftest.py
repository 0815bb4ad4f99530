"""Real services for the integration tests. Missing packages are installed; what cannot be installed is a failure."""

import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from holdfast.coordinator.store.client import EtcdStore
from integration.etcd_cluster import Authority, EtcdCluster, running

_numbers = itertools.count(1)
_RESUMED = pytest.StashKey[list[tuple[str, float]]]()


@pytest.fixture
def resumed(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Notes after how many seconds a client went on after a fault, for the table at the end of the run."""
    return lambda fault, seconds: request.config.stash.setdefault(_RESUMED, []).append((fault, seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if noted := config.stash.get(_RESUMED, []):
        terminalreporter.section("time to resume after a fault of etcd")
        for fault, seconds in noted:
            terminalreporter.write_line(f"{fault:<70} {seconds:6.1f} s")


@pytest.fixture(scope="session")
def installed() -> None:
    subprocess.run([str(Path(__file__).parent / "install.sh")], check=True, timeout=300)


@pytest.fixture(scope="session")
def etcd(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member shared by all tests that leave it alone; work under `prefix`."""
    with running(EtcdCluster(tmp_path_factory.mktemp("etcd"))) as cluster:
        yield cluster


@pytest.fixture
def own_etcd(installed: None, tmp_path: Path) -> Iterator[EtcdCluster]:
    """One member for a test that kills, freezes or compacts it."""
    with running(EtcdCluster(tmp_path)) as cluster:
        yield cluster


@pytest.fixture
def etcd3(installed: None, tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members with TLS, to be harmed."""
    with running(EtcdCluster(tmp_path, 3, tls=Authority(tmp_path).issue("root"))) as cluster:
        yield cluster


@pytest.fixture
def prefix() -> str:
    """Keys of this test alone."""
    return f"/test-{next(_numbers)}/"


@pytest.fixture
async def store(etcd: EtcdCluster) -> AsyncIterator[EtcdStore]:
    async with EtcdStore(etcd.endpoints) as client:
        yield client


@pytest.fixture
async def own_store(own_etcd: EtcdCluster) -> AsyncIterator[EtcdStore]:
    async with EtcdStore(own_etcd.endpoints) as client:
        yield client


@pytest.fixture
async def store3(etcd3: EtcdCluster) -> AsyncIterator[EtcdStore]:
    async with EtcdStore(etcd3.endpoints, etcd3.tls) as client:
        yield client
