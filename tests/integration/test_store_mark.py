"""A real agent and an etcd that is restored from a backup while the agent does not run."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.agent.agent import Agent
from holdfast.agent.config import AgentSettings
from holdfast.agent.host import LinuxHost
from holdfast.agent.saved import FILE, Saved
from holdfast.agent.transfer.tcp import TcpWire
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Meta
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.mark import Mark
from holdfast.coordinator.store.port import WentBack
from integration.etcd_cluster import EtcdCluster, free_port
from integration.watcher import until

KEYS = Keyspace()


class NoStorage:
    """A node without any."""

    async def scan(self) -> Scan:
        return Scan(datetime.now(UTC))


@contextlib.asynccontextmanager
async def agent(etcd: EtcdCluster, state: Path) -> AsyncIterator[asyncio.Task[None]]:
    settings = AgentSettings(node="n1", listen="127.0.0.1", transfer_port=free_port(), state=state)
    async with EtcdStore(etcd.endpoints) as store:
        made = Agent(settings, store, NoStorage(), TcpWire(), LinuxHost(state))  # type: ignore[arg-type]
        running = asyncio.create_task(made.run())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.wait({running})


def mark(state: Path) -> Mark | None:
    saved = state / FILE
    return Saved.model_validate_json(saved.read_bytes()).mark if saved.exists() else None


async def put_meta(etcd: EtcdCluster, generation: int = 1) -> None:
    async with EtcdStore(etcd.endpoints) as store:
        await store.put(KEYS.meta, Meta(cluster_uuid="one", generation=generation).to_json())


async def test_it_is_refused_after_a_restart_until_its_generation_is_raised(
    own_etcd: EtcdCluster, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    await put_meta(own_etcd)
    own_etcd.kill9(0)
    await asyncio.to_thread(shutil.copytree, own_etcd.data(), tmp_path / "backup")
    await asyncio.to_thread(own_etcd.start_all)

    async with EtcdStore(own_etcd.endpoints) as store:
        last = await store.put(KEYS.desired("nodes", "n1"), b'{"address": "127.0.0.1"}')
    async with agent(own_etcd, state):

        async def marked() -> bool:
            return (found := mark(state)) is not None and found.revision >= last

        await until(marked)
    async with agent(own_etcd, state) as again:
        await asyncio.sleep(0.5)
        assert not again.done(), "the keyspace is the same"

    own_etcd.kill9(0)
    await asyncio.to_thread(shutil.rmtree, own_etcd.data())
    await asyncio.to_thread(shutil.copytree, tmp_path / "backup", own_etcd.data())
    await asyncio.to_thread(own_etcd.start_all)
    async with agent(own_etcd, state) as refused:
        await asyncio.wait({refused}, timeout=10)
        with pytest.raises(ExceptionGroup) as caught:
            refused.result()
        assert caught.group_contains(WentBack, match="this node has seen .*raise `generation`")

    await put_meta(own_etcd, generation=2)
    async with agent(own_etcd, state) as restored:

        async def taken() -> bool:
            return (found := mark(state)) is not None and found.generation == 2

        await until(taken)
        assert not restored.done()
