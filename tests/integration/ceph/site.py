"""Nodes with real agents in this process, on a real etcd and real Ceph clusters; and guests that write."""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from holdfast.agent.agent import Agent
from holdfast.agent.config import AgentSettings
from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.host import LinuxHost
from holdfast.agent.storage.rbd import binding
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.agent.transfer.tcp import TcpChannel, TcpWire, open_connection
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Meta, Owner
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.cluster import CephCluster
from integration.etcd_cluster import free_port

MIB = 2**20
_numbers = itertools.count(1)
Where = tuple[CephCluster, str, str]
"""Cluster, pool, namespace."""


class MeteredWire(TcpWire):
    """Plain TCP that keeps account of what this side has sent, connection by connection."""

    def __init__(self) -> None:
        self.streams: list[TcpChannel] = []

    async def connect(self, node: str, address: str, port: int, pace: int | None = None) -> TcpChannel:
        channel = MeteredChannel(await open_connection(address, port, pace))
        self.streams.append(channel)
        return channel

    def sent(self) -> int:
        """Bytes of all connections so far."""
        return sum(channel.transferred() for channel in self.streams)

    def cut(self) -> None:
        """Break every connection that is open."""
        for channel in self.streams:
            channel.abort()


class MeteredChannel(TcpChannel):
    """Remembers what it had moved when it was closed."""

    _moved = 0

    def transferred(self) -> int:
        self._moved = max(self._moved, super().transferred())
        return self._moved

    async def close(self) -> None:
        self.transferred()
        await super().close()


class Site:
    """Guest 101 with three images on storage `home`, of node alpha; beta is to replicate them to storage `away`."""

    def __init__(self, endpoints: list[str], directory: Path, home: Where, away: Where, timeout: float = 5.0) -> None:
        self.home, self.away = home, away
        self.timeout = timeout
        self.keys = Keyspace(f"rbd-{os.getpid()}-{next(_numbers)}")
        self.directory = directory
        self.endpoints = endpoints
        self.ports = {"alpha": free_port(), "beta": free_port()}
        self.addresses = dict.fromkeys(self.ports, "127.0.0.1")
        self.disks = {"scsi0": "vm-101-disk-0", "scsi1": "vm-101-disk-1", "scsi2": "vm-101-disk-2"}
        self.agents: dict[str, Agent] = {}
        self.volumes: dict[str, NodeVolumes] = {}
        self.wires = {node: MeteredWire() for node in self.ports}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def keyring(self, node: str, storeid: str) -> Path:
        """Where a node has its key of a storage."""
        folder = self.directory / node / "keys"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{storeid}.keyring"

    async def define(
        self,
        store: EtcdStore,
        *,
        rpo: float = 5,
        size: int = 64 * MIB,
        bandwidth: int | None = None,
        keep: int | None = None,
    ) -> None:
        """Write desired state, make the images, and give each node its keys."""
        for storeid, (cluster, pool, namespace) in (("home", self.home), ("away", self.away)):
            for node in self.ports:
                self.keyring(node, storeid).write_bytes(cluster.keyring.read_bytes())
            properties = {"pool": pool, "monhost": cluster.address, "krbd": "0"}
            if namespace:
                properties["namespace"] = namespace
            await self.put(store, "storage", storeid, {"type": "rbd", "shared": True, "properties": properties})
        for node, port in self.ports.items():
            address = self.addresses[node]
            await self.put(store, "nodes", node, {"address": address, "transfer_port": port})
        disks = {slot: {"volume": f"home:{image}", "size": size} for slot, image in self.disks.items()}
        guest = {"type": "qemu", "node": "alpha", "disks": disks, "definition": "boot: order=scsi0\n"}
        await self.put(store, "guests", 101, guest)
        for image in self.disks.values():
            self.rbd(self.home, "create", "--size", f"{size}B", "--image", image)
        target: dict[str, Any] = {"node": "beta", "storages": {"home": "away"}, "bandwidth": bandwidth}
        if keep is not None:
            target["keep"] = {"last": keep}
        await self.put(store, "policies", "p", {"selector": {"all": True}, "targets": [target], "rpo": rpo})
        await store.put(self.keys.meta, Meta(cluster_uuid="b2c0c0de").to_json())
        await self.own(store, 1)

    async def own(self, store: EtcdStore, epoch: int, node: str = "alpha") -> None:
        """Make a node the guest's owner."""
        owner = Owner(node=node, epoch=epoch, since=datetime.now(UTC), by="test")
        await store.put(self.keys.owner(101), owner.to_json())

    async def put(self, store: EtcdStore, folder: str, name: str | int, record: object) -> None:
        """Write a record of desired state."""
        await store.put(self.keys.desired(folder, name), orjson.dumps(record))

    @staticmethod
    def rbd(where: Where, *args: str) -> bytes:
        """`rbd ARGS` in a pool and namespace."""
        cluster, pool, namespace = where
        return cluster.rbd(*args, "--pool", pool, *(["--namespace", namespace] if namespace else []))

    def start(self, *nodes: str) -> None:
        """Start agents."""
        for node in nodes or tuple(self.ports):
            self._tasks[node] = asyncio.create_task(self._run(node))

    async def _run(self, node: str) -> None:
        folder = self.directory / node
        settings = AgentSettings(
            node=node,
            listen="127.0.0.1",
            transfer_port=self.ports[node],
            cluster=self.keys.cluster,
            endpoints=tuple(f"http://{e}" for e in self.endpoints),
            state=folder / "state",
            ceph_keys=folder / "keys",
        )
        # a busy machine makes no snapshots of three images within a second; what a bound is for is tested elsewhere
        host = LinuxHost(settings.state, Pauser(Places(marks=folder / "paused"), 20))
        async with settings.store() as store:
            volumes = NodeVolumes(node, host.now, folder / "keys", Path("/nonexistent"), self.timeout)
            agent = Agent(settings, store, volumes, self.wires[node], host)
            volumes.storages, volumes.token = agent.storages, agent.token
            self.agents[node], self.volumes[node] = agent, volumes
            try:
                await agent.run()
            finally:
                volumes.close()

    async def stop(self, *nodes: str) -> None:
        """Stop agents."""
        for node in nodes or tuple(self._tasks):
            task = self._tasks.pop(node)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del self.agents[node]

    async def scan(self, node: str = "beta") -> Scan:
        """What a node sees now."""
        return await self.volumes[node].scan()

    def reasons(self, node: str = "alpha") -> dict[str, str]:
        """Reason → message, of all conditions of the guest and its targets on its owner."""
        worker = self.agents[node].guests.get(101)
        if worker is None:
            return {}
        found = [*worker.state.conditions, *(c for t in worker.state.targets.values() for c in t.conditions)]
        return {c.reason: c.message for c in found}

    def committed(self) -> tuple[int, int]:
        """Epoch and sequence of the last point that beta committed, as alpha knows; (0, 0): none."""
        worker = self.agents["alpha"].guests.get(101)
        target = worker.state.targets.get("beta") if worker else None
        return (target.last.epoch, target.last.sequence) if target and target.last else (0, 0)

    async def until(self, true: Callable[[], Any], seconds: float = 40.0) -> Any:
        """Wait until something holds; what it returned."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := true()):
                    for task in self._tasks.values():
                        if task.done():
                            task.result()
                    await asyncio.sleep(0.05)
                return found
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s; committed {self.committed()}, {self.reasons()}") from None

    async def progress(self, points: int = 1, seconds: float = 30.0) -> None:
        """Wait until beta has committed so many more points."""
        for _ in range(points):
            before = self.committed()
            await self.until(lambda before=before: self.committed() > before, seconds)  # type: ignore[misc]


@contextlib.asynccontextmanager
async def running(site: Site, *nodes: str) -> AsyncIterator[Site]:
    """The site's agents, until the block ends."""
    site.start(*nodes)
    try:
        await site.until(lambda: len(site.agents) == len(nodes or site.ports))
        yield site
    finally:
        await site.stop()


class Guest:
    """A process that writes the counter to the guest's disks."""

    def __init__(
        self,
        where: Where,
        images: list[str],
        pace: float = 0.005,
        command: tuple[str, ...] = (),
        qmp: Path | None = None,
    ) -> None:
        """`command`: what it is run by. `qmp`: where its monitor answers as QEMU's does."""
        cluster, pool, namespace = where
        disks = [f"{pool}/{namespace}/{image}" for image in images]
        self.out = (cluster.directory / f"writer-{next(_numbers)}.out").open("w+")
        self.process = subprocess.Popen(
            [*command, sys.executable, "-m", "integration.ceph.writer", str(cluster.conf), "admin", *disks],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PACE": str(pace),
                **({"QMP": str(qmp)} if qmp else {}),
            },
            stdin=subprocess.PIPE,
            stdout=self.out,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self) -> list[str]:
        """What it has said."""
        self.out.seek(0)
        return self.out.read().splitlines()

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def pause(self) -> None:
        """Have it stand still, as QEMU does at QMP's `stop`: what it has begun to write is done."""
        before = self.lines().count("stopped")
        self._say("stop")
        deadline = time.monotonic() + 10
        while self.lines().count("stopped") == before:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def resume(self) -> None:
        """Let it go on."""
        self._say("cont")

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Shut down: a guest that is killed leaves its locks, which others wait for until its watch has timed out."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.out.close()


@contextlib.contextmanager
def writing(where: Where, images: list[str], pace: float = 0.005) -> Iterator[Guest]:
    """A guest that writes until the block ends."""
    guest = Guest(where, images, pace)
    try:
        yield guest
        assert guest.process.poll() is None, guest.lines()[-3:]
    finally:
        guest.end()


class Hand:
    """Reads and writes images, as the administrator of a cluster."""

    def __init__(self, where: Where) -> None:
        cluster, pool, namespace = where
        self.connection = binding.rados().Rados(conffile=str(cluster.conf), rados_id="admin")
        self.connection.connect()
        self.io = self.connection.open_ioctx(pool)
        self.io.set_namespace(namespace)

    def read(self, image: str, snapshot: str | None = None, length: int | None = None) -> bytes:
        """The image's content."""
        with binding.rbd().Image(self.io, image, snapshot=snapshot, read_only=True) as opened:
            return bytes(opened.read(0, length or opened.size()))

    def write(self, image: str, data: bytes, at: int = 0) -> None:
        """Change an image."""
        with binding.rbd().Image(self.io, image) as opened:
            opened.write(data, at)

    def snapshots(self, image: str) -> list[str]:
        """Names, oldest first."""
        with binding.rbd().Image(self.io, image, read_only=True) as opened:
            return [s["name"] for s in opened.list_snaps()]

    def counter(self, image: str, snapshot: str | None = None) -> int:
        """The guest's counter in an image."""
        return int.from_bytes(self.read(image, snapshot, 8), "big")

    def close(self) -> None:
        self.io.close()
        self.connection.shutdown()


@contextlib.contextmanager
def by_hand(where: Where) -> Iterator[Hand]:
    hand = Hand(where)
    try:
        yield hand
    finally:
        hand.close()
