"""The agents as they are installed: processes of their own, killed as a power cut does it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.site import MIB, Site, by_hand
from integration.etcd_cluster import free_port

pytestmark = pytest.mark.timeout(240, func_only=True)


class Process:
    """`holdfast-agent` of one node."""

    def __init__(self, site: Site, node: str) -> None:
        self._folder = site.directory / node
        self._config = self._folder / "agent.yaml"
        settings = {
            "node": node,
            "listen": "127.0.0.1",
            "transfer_port": site.ports[node],
            "api_port": free_port(),
            "socket": str(self._folder / "agent.sock"),
            "cluster": site.keys.cluster,
            "endpoints": [f"http://{endpoint}" for endpoint in site.endpoints],
            "state": str(self._folder / "state"),
            "ceph_keys": str(self._folder / "keys"),
            "ceph_conf": "/nonexistent",
            "pause": 20,
        }
        self._config.write_bytes(orjson.dumps(settings))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "holdfast-agent"), "--config", str(self._config)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Stop it as systemd does; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return (self._folder / "log").read_text()


@contextlib.contextmanager
def agents(site: Site) -> Iterator[dict[str, Process]]:
    started: dict[str, Process] = {}
    try:
        for node in site.ports:
            started[node] = Process(site, node)
        yield started
        assert [process.end() for process in started.values()] == [0, 0]
    finally:
        for process in started.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill9()


@contextlib.asynccontextmanager
async def looking_at(site: Site) -> AsyncIterator[NodeVolumes]:
    """Node beta's storage, seen from outside of its agent."""
    cluster, pool, namespace = site.away
    properties = {"pool": pool, "namespace": namespace, "monhost": cluster.address}
    volumes = NodeVolumes("beta", lambda: datetime.now(UTC), site.directory / "beta/keys", Path("/nonexistent"))
    volumes.storages = lambda: {"away": Storage(type="rbd", shared=True, properties=properties)}
    try:
        yield volumes
    finally:
        volumes.close()


async def point_after(volumes: NodeVolumes, last: PointId, log: Process, seconds: float = 90) -> PointId:
    """Wait for a complete point that is later."""
    deadline = time.monotonic() + seconds
    while True:
        points = (await volumes.scan()).complete_points(101)
        if points and points[-1].id > last:
            return points[-1].id
        assert time.monotonic() < deadline, log.log()[-2000:]
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("killed", ["alpha", "beta"])
async def test_an_agent_that_is_killed_in_mid_stream_costs_no_point_and_no_full_send(
    site: Site, store: EtcdStore, killed: str
) -> None:
    await site.define(store, bandwidth=4 * MIB)
    with by_hand(site.home) as home, by_hand(site.away) as away:
        home.write("vm-101-disk-1", os.urandom(8 * MIB))
        with agents(site) as running:
            async with looking_at(site) as beta:
                first = await point_after(beta, PointId(0, 0), running["alpha"])
                home.write("vm-101-disk-1", os.urandom(12 * MIB))
                deadline = time.monotonic() + 60
                while not (await beta.scan()).volumes["rbd:away/vm-101-disk-1"].resume_token:
                    assert time.monotonic() < deadline, running["alpha"].log()[-2000:]
                    await asyncio.sleep(0.2)
                await asyncio.sleep(1)
                running[killed].kill9()
                scan = await beta.scan()
                assert [p.id for p in scan.complete_points(101)] == [first]
                running[killed].start()
                later = await point_after(beta, first, running["alpha"], 120)
                for image in site.disks.values():
                    newest = away.snapshots(image)[-1]
                    assert away.read(image, newest) == home.read(image, newest), (image, later)
                assert running["alpha"].log().count(", in full") == len(site.disks)
