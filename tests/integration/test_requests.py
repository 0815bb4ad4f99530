"""Requests to a node on a real etcd: under the guest's lock, once, and told to whoever asked. ZFS is the lab's matter:
here the storage is the simulator's model of it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from holdfast.agent.agent import Agent
from holdfast.agent.config import AgentSettings
from holdfast.agent.host import LinuxHost
from holdfast.agent.ports import GuestHere, TakeOrder
from holdfast.agent.transfer.tcp import TcpWire
from holdfast.coordinator.cli.asking import ask_for
from holdfast.coordinator.cli.main import cli
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import Consistency, Member, RecoveryPoint
from holdfast.coordinator.model.policy import ProtectionPolicy
from holdfast.coordinator.model.storage import Storage as StorageRecord
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.locks import Held, Locks
from integration.etcd_cluster import EtcdCluster, free_port
from integration.watcher import until
from sim.at_once import AtOnce
from sim.zfs import Storage

DISK = "tank/vm-101-disk-0"


class UnusedHost(LinuxHost):
    """A host on which nobody uses the guest's disks, or somebody does."""

    used: tuple[str, ...] = ()

    async def users(self, guest: GuestHere) -> tuple[str, ...]:
        return self.used


class Node1:
    """The owner of guest 101, with one point of it."""

    def __init__(self, store: EtcdStore, etcd: EtcdCluster, keys: Keyspace, state: Path) -> None:
        self.store = store
        self.keys = keys
        self._endpoints = [f"http://{endpoint}" for endpoint in etcd.endpoints]
        self.storage = Storage("alpha", random.Random(1))
        self.storage.create(DISK, "volume", 1 << 30)
        self.host = UnusedHost(state)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = AgentSettings(
            node="alpha", endpoints=self._endpoints, cluster=self.keys.cluster, insecure=True, listen="127.0.0.1",
            transfer_port=free_port(),
        )  # fmt: skip
        agent = Agent(settings, self.store, AtOnce(self.storage), TcpWire(), self.host)  # type: ignore[arg-type]
        task = asyncio.create_task(agent.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def command(self, *args: str) -> tuple[int, str]:
        argv = ["--cluster", self.keys.cluster, "--endpoint", self._endpoints[0], "snapshot", *args]
        result = await asyncio.to_thread(CliRunner().invoke, cli, argv, prog_name="holdfast")
        return result.exit_code, result.output

    def take(self, sequence: int, counter: int) -> None:
        """Write to the disk, and take a point."""
        self.storage.write(DISK, counter, 4096)
        self.storage.prepare("tank", 101)
        member = Member(
            disk="scsi0", volume="local:vm-101-disk-0", dataset=DISK, snapshot="holdfast-1-1", guid=0, size=1
        )
        point = RecoveryPoint(
            epoch=1, sequence=sequence, instant=datetime.now(UTC), consistency=Consistency.ATOMIC, definition="d",
            disks=("scsi0",), members=(member,),
        )  # fmt: skip
        self.storage.take(TakeOrder(101, "tank", 1, point, {}, "text"))

    async def ask(self, action: Literal["rollback", "clone", "mount", "unclone"], **more: object) -> str:
        """As the command line does, once it has what it wants to know."""
        connection: Any = SimpleNamespace(keyspace=self.keys)
        return await ask_for(self.store, connection, 30, action, 101, "alpha", **more)

    async def said(self) -> str:
        listing = await self.store.list(f"{self.keys.root}agents/alpha/requests/")
        return " ".join(item.value.decode() for item in listing.items)

    def counter(self) -> int:
        return self.storage.datasets[DISK].image.counter


@pytest.fixture
async def node(store: EtcdStore, etcd: EtcdCluster, prefix: str, tmp_path: Path) -> Node1:
    keys = Keyspace(prefix.strip("/"))
    for name in ("alpha", "beta"):
        await store.put(keys.desired("nodes", name), Node(address="127.0.0.1", api_port=1, transfer_port=1).to_json())
    await store.put(
        keys.desired("storage", "local"), StorageRecord(type="zfspool", properties={"pool": "tank"}).to_json()
    )
    disks = {"scsi0": {"volume": "local:vm-101-disk-0"}}
    guest = Guest.model_validate({"type": "qemu", "node": "alpha", "disks": disks})
    await store.put(keys.desired("guests", 101), guest.to_json())
    rule = {"selector": {"all": True}, "targets": [{"node": "beta"}], "schedule": "02:00"}
    await store.put(keys.desired("policies", "p"), ProtectionPolicy.model_validate(rule).to_json())
    owner = Owner(node="alpha", epoch=1, since=datetime.now(UTC), by="c")
    await store.put(keys.owner(101), owner.to_json())
    return Node1(store, etcd, keys, tmp_path)


async def test_a_rollback_waits_for_the_guests_lock_and_says_who_has_it(node: Node1) -> None:
    node.take(1, 7)
    node.storage.write(DISK, 9, 4096)
    locked, let_go = asyncio.Event(), asyncio.Event()

    async def migrate(held: Held) -> None:
        locked.set()
        await let_go.wait()

    async with node.running(), asyncio.TaskGroup() as group:
        group.create_task(Locks(node.store, node.keys, "w9", SystemClock()).run([101], "migration", migrate))
        await locked.wait()
        asked = group.create_task(node.ask("rollback", at="1-1"))
        await until(lambda: _has(node, "waiting", "locked by w9 for migration since"))
        assert node.counter() == 9
        let_go.set()
        assert "is as it was at point 1-1" in await asked
    assert node.counter() == 7
    [aside] = [d for name, d in node.storage.datasets.items() if "/holdfast/aside/101-e1-rollback-101-" in name]
    assert aside.newest is not None
    assert aside.newest.image.counter == 9, "what it was is snapshotted, and kept"
    assert not (await node.store.list(node.keys.desired("requests", ""))).items, "it was withdrawn"
    assert await node.store.get(node.keys.lock(101)) is None


async def _has(node: Node1, *words: str) -> bool:
    said = await node.said()
    return all(word in said for word in words)


async def test_a_guest_that_runs_is_not_touched(node: Node1) -> None:
    node.take(1, 7)
    node.storage.write(DISK, 9, 4096)
    node.host.used = ("kvm (4711)",)
    async with node.running():
        with pytest.raises(Failed, match=r"GuestRuns: its disks are in use by kvm \(4711\). Shut the guest down first"):
            await node.ask("rollback", at="1-1")
    assert node.counter() == 9
    assert list(node.storage.datasets) == [DISK]


async def test_only_the_owner_rolls_back_whatever_its_agent_believes(node: Node1) -> None:
    node.take(1, 7)
    async with node.running():
        with pytest.raises(Failed, match="UnknownPoint: alpha has no point 1-8"):
            await node.ask("rollback", at="1-8")
        node.storage.raise_epoch("tank", 101, 2)
        with pytest.raises(Failed, match="EpochRefused: the storage is marked with epoch 2"):
            await node.ask("rollback", at="1-1")
        owner = Owner(node="beta", epoch=2, since=datetime.now(UTC), by="c")
        await node.store.put(node.keys.owner(101), owner.to_json())
        with pytest.raises(Failed, match="NotOwner: alpha does not own guest 101"):
            await node.ask("rollback", at="1-1")


async def test_copies_are_made_listed_and_destroyed_by_the_command_line(node: Node1) -> None:
    node.take(1, 7)
    copy = "tank/holdfast/clones/101-forensics-vm-101-disk-0"
    async with node.running():
        made, said = await node.command("clone", "101", "1-1", "--to", "forensics")
        assert made == 0, said
        assert f"point 1-1 of guest 101 is there as forensics: scsi0: {copy}" in said
        assert "/dev/zvol/tank/holdfast/clones/101-point-1-1-vm-101-disk-0" in await node.ask(
            "mount", at="1-1", name="point-1-1", seconds=600
        )
        await until(lambda: _reported(node, "forensics", "point-1-1"))
        listed, said = await node.command("copies")
        assert (listed, copy in said) == (0, True), said
        assert (await node.command("unmount", "101", "1-1"))[0] == 0
        await node.ask("unclone", name="forensics")
        with pytest.raises(Failed, match="UnknownCopy: alpha has no copy forensics"):
            await node.ask("unclone", name="forensics")
    assert list(node.storage.datasets) == [DISK]


async def test_a_copy_of_zfs_always_needs_its_point_and_the_refusal_says_what_does_not(node: Node1) -> None:
    node.take(1, 7)
    async with node.running():
        made, said = await node.command("clone", "101", "1-1", "--to", "forensics", "--flatten")
        assert made == 1
        assert "cannot make copies that do not need their point (can: rbd). Make a copy that needs it, and zfs" in said
    assert list(node.storage.datasets) == [DISK]


async def _reported(node: Node1, *names: str) -> bool:
    item = await node.store.get(node.keys.agent("alpha"))
    return item is not None and all(name in item.value.decode() for name in names)


async def test_what_is_mounted_goes_when_its_time_is_over(node: Node1) -> None:
    node.take(1, 7)
    async with node.running():
        await node.ask("mount", at="1-1", name="point-1-1", seconds=1)
        await asyncio.sleep(1)
        await node.store.put(node.keys.desired("nodes", "gamma"), Node(address="127.0.0.1").to_json())  # wakes it
        await until(lambda: _gone(node))


async def _gone(node: Node1) -> bool:
    return list(node.storage.datasets) == [DISK]
