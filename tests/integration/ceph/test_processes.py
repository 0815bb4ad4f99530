"""What a kill -9 of an agent costs."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.processes import Process, agents
from integration.ceph.site import MIB, Site, by_hand

pytestmark = pytest.mark.timeout(240, func_only=True)


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
