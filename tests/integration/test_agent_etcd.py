"""An agent's view of a real etcd, and its reports in it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from holdfast.agent import report
from holdfast.agent.guest import GuestState
from holdfast.agent.host import LinuxHost
from holdfast.agent.ports import VolumesError
from holdfast.agent.report import Reporter
from holdfast.agent.scanner import Scanner
from holdfast.agent.view import View
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.report import AgentReport, GuestReport, ReplicaReport
from holdfast.coordinator.planning.observed import Anchor, Scan, Snapshot, Volume
from holdfast.coordinator.store.cache import Cache, Change
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import StoreError
from integration.etcd_cluster import EtcdCluster

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
GUEST = {"type": "qemu", "node": "alpha", "disks": {"scsi0": {"volume": "local:vm-101-disk-0"}}}
POLICY = {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": 60}


@pytest.fixture
def keys(prefix: str) -> Keyspace:
    return Keyspace(prefix.strip("/"))


async def put(store: EtcdStore, key: str, value: object) -> int:
    return await store.put(key, value if isinstance(value, bytes) else orjson.dumps(value))


async def put_desired(store: EtcdStore, keys: Keyspace) -> int:
    for node in ("alpha", "beta"):
        await put(store, keys.desired("nodes", node), {"address": f"{node}.example"})
    await put(store, keys.desired("storage", "local"), {"type": "zfspool", "properties": {"pool": "tank"}})
    await put(store, keys.desired("guests", 101), GUEST)
    await put(store, keys.desired("policies", "p"), POLICY)
    return await put(store, keys.owner(101), Owner(node="alpha", epoch=1, since=NOON, by="c").to_json())


@contextlib.asynccontextmanager
async def running(*loops: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in loops:
            task.cancel()
        for task in loops:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def following(store: EtcdStore, keys: Keyspace, view: View) -> AsyncIterator[Cache]:
    """A view that is fed as the agent feeds it."""
    cache = Cache(store, keys.root)

    def on_change(change: Change) -> None:
        if change.new is None:
            view.delete(change.key)
        else:
            view.put(change.key, change.new.value, change.new.create_revision)

    for prefix in (keys.desired_prefix, keys.owners_prefix, keys.meta):
        cache.subscribe(prefix, on_change)
    async with running(asyncio.create_task(cache.run())):
        async with asyncio.timeout(15):
            await cache.synced.wait()
        yield cache


async def reached(cache: Cache, revision: int) -> None:
    async with asyncio.timeout(15):
        await cache.changed(revision - 1)


async def test_a_view_shows_what_etcd_holds_and_follows_it(store: EtcdStore, keys: Keyspace) -> None:
    await put_desired(store, keys)
    view = View(keys, "alpha", {})
    async with following(store, keys, view) as cache:
        assert list(view.owned()) == [101]
        protection = view.protection(101)
        assert protection is not None
        assert [a.node for a in protection.assignments] == ["beta"]

        await reached(cache, await put(store, keys.desired("policies", "p"), {**POLICY, "rpo": 30}))
        protection = view.protection(101)
        assert protection is not None
        assert protection.assignments[0].rpo == 30

        await reached(cache, await put(store, keys.desired("policies", "p"), b"{"))
        assert view.protection(101) == protection, "the last good one stays in force"
        assert [p.key for p in view.desired.problems] == ["desired/policies/p"]

        moved = Owner(node="beta", epoch=2, since=NOON, by="c").to_json()
        await reached(cache, await put(store, keys.owner(101), moved))
        assert view.owned() == {}

        await store.delete(keys.desired("guests", 101))
        await reached(cache, await put(store, keys.desired("guests", 102), GUEST))
        assert view.protection(101) is None


async def test_of_two_policies_the_one_that_etcd_has_longer_is_in_force_however_often_it_is_rewritten(
    store: EtcdStore, keys: Keyspace
) -> None:
    await put_desired(store, keys)
    await put(store, keys.desired("policies", "a"), {**POLICY, "rpo": 300})
    await put(store, keys.desired("policies", "p"), {**POLICY, "rpo": 90})
    view = View(keys, "alpha", {})
    async with following(store, keys, view):
        protection = view.protection(101)
        assert protection is not None
        assert [a.policy for a in protection.assignments] == ["p"]


# --- reports


class StillHost(LinuxHost):
    """Its wall clock stands still."""

    def now(self) -> datetime:
        return NOON


@dataclass
class Pool:
    """A storage on which nothing happens."""

    shows: Scan = field(default_factory=lambda: Scan(NOON))
    broken: bool = False

    async def scan(self) -> Scan:
        if self.broken:
            raise VolumesError("suspended")
        return self.shows


@dataclass
class Target:
    last: RecoveryPoint | None = None
    waiting: bool = True
    conditions: tuple[Condition, ...] = ()


@dataclass
class Worker:
    vmid: int
    state: GuestState


def replica_of_102() -> Scan:
    member = {"disk": "scsi0", "volume": "local:vm-102-disk-0", "dataset": "tank/v", "snapshot": "holdfast-1-4"}
    point = RecoveryPoint.model_validate(
        {
            **{"epoch": 1, "sequence": 4, "instant": NOON, "consistency": "atomic", "definition": "d"},
            **{"disks": ["scsi0"], "members": [{**member, "guid": 7, "size": 2**30}]},
        }
    )
    snapshot = Snapshot("holdfast-1-4", 7, 1, 0, 0, 0)
    volume = Volume("tank/v", "volume", 1, 2**30, 0, 0, 0, False, None, None, {}, {}, (snapshot,))
    return Scan(NOON, {"tank/v": volume}, {("tank", 102): Anchor("tank", 102, 1, (point,))})


class Agent:
    """What a reporter reports on, in the hands of a test."""

    def __init__(self, store: EtcdStore, keys: Keyspace, folder: Path, pool: Pool | None = None) -> None:
        host = StillHost(folder)
        self.pool = pool or Pool()
        self.scanner = Scanner(self.pool, host)  # type: ignore[arg-type]  # a pool that can only be looked at
        self.view = View(keys, "alpha", {})
        self.workers: dict[int, Worker] = {}
        self.reporter = Reporter("alpha", keys, store, self.view, self.scanner, host)
        self.reporter.guests = lambda: self.workers  # type: ignore[return-value,assignment]

    def reporting(self) -> contextlib.AbstractAsyncContextManager[None]:
        return running(asyncio.create_task(self.reporter.run()))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "AT_LEAST", 0.05)
    monkeypatch.setattr(report, "AT_MOST", 0.2)
    monkeypatch.setattr(report, "RETRY", 0.2)


async def until(store: EtcdStore, key: str, present: bool = True, has: bytes = b"") -> bytes:
    """The key's value once it is there (and `has` in it), or b"" once it is not."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(StoreError):
                found = await store.get(key)
                if (found is not None) is present and (found is None or has in found.value):
                    return found.value if found else b""
            await asyncio.sleep(0.05)


async def test_an_agent_reports_itself_its_guests_and_its_replicas(
    store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    agent = Agent(store, keys, tmp_path, Pool(replica_of_102()))
    trouble = Condition(reason="TargetUnreachable", message="To beta: no", target="beta")
    state = GuestState(3, unchanged_at=NOON, targets={"beta": Target(), "gamma": Target(None, False, (trouble,))})  # type: ignore[dict-item]
    agent.workers[101] = Worker(101, state)
    async with agent.reporting():
        guest = GuestReport.model_validate_json(await until(store, keys.guest_report("alpha", 101)))
        assert guest.epoch == 3
        assert [(t.node, t.unchanged_at) for t in guest.targets] == [("beta", NOON), ("gamma", None)]
        assert [(c.reason, c.since) for c in guest.conditions] == [("TargetUnreachable", NOON)]
        assert AgentReport.model_validate_json(await until(store, keys.agent("alpha"))).started == NOON
        replica = ReplicaReport.model_validate_json(await until(store, keys.replica_report("alpha", 102)))
        assert [(p.epoch, p.sequence, p.size) for p in replica.points] == [(1, 4, 2**30)]


async def test_an_agent_that_was_restarted_reports_replicas_that_no_owner_asks_about(
    store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    """Their owners may be down: that is when people ask what there is to start from."""
    async with Agent(store, keys, tmp_path, Pool(replica_of_102())).reporting():
        await until(store, keys.replica_report("alpha", 102))
    await store.delete(keys.replica_report("alpha", 102))
    async with Agent(store, keys, tmp_path, Pool(replica_of_102())).reporting():
        await until(store, keys.replica_report("alpha", 102))


async def test_while_the_storage_cannot_be_looked_at_what_was_said_of_replicas_stays(
    store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    async with Agent(store, keys, tmp_path, Pool(replica_of_102())).reporting():
        said = await until(store, keys.replica_report("alpha", 102))
    await store.delete(keys.agent("alpha"))
    async with Agent(store, keys, tmp_path, Pool(broken=True)).reporting():
        await until(store, keys.agent("alpha"))
        assert await until(store, keys.replica_report("alpha", 102)) == said


async def test_what_no_longer_holds_is_taken_back_and_other_agents_reports_are_left_alone(
    store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    others = [keys.agent("alpha-2"), keys.guest_report("beta", 101)]
    for key in (*others, keys.guest_report("alpha", 999), keys.replica_report("alpha", 102)):
        await put(store, key, b"{}")
    agent = Agent(store, keys, tmp_path)
    agent.workers[101] = Worker(101, GuestState(1))
    async with agent.reporting():
        for stale in (keys.guest_report("alpha", 999), keys.replica_report("alpha", 102)):
            await until(store, stale, present=False)
        await until(store, keys.guest_report("alpha", 101))
        del agent.workers[101]
        agent.reporter.changed()
        await until(store, keys.guest_report("alpha", 101), present=False)
    for key in others:
        assert await until(store, key) == b"{}"


async def test_what_has_not_changed_is_not_written_again(store: EtcdStore, keys: Keyspace, tmp_path: Path) -> None:
    agent = Agent(store, keys, tmp_path)
    agent.workers[101] = Worker(101, GuestState(1))
    async with agent.reporting():
        await until(store, keys.guest_report("alpha", 101))
        for _ in range(10):
            agent.reporter.changed()
            await asyncio.sleep(0.05)
    found = await store.get(keys.guest_report("alpha", 101))
    assert found is not None
    assert found.version == 1


async def test_a_condition_keeps_the_time_since_when_it_holds(store: EtcdStore, keys: Keyspace, tmp_path: Path) -> None:
    agent = Agent(store, keys, tmp_path)
    state = GuestState(1, conditions=(Condition(reason="StorageFailed", message="first words"),))
    agent.workers[101] = Worker(101, state)
    async with agent.reporting():
        await until(store, keys.guest_report("alpha", 101))
        agent.reporter._host.now = lambda: NOON + timedelta(hours=1)  # type: ignore[method-assign]
        state.conditions = (Condition(reason="StorageFailed", message="other words"),)
        agent.reporter.changed()
        said = await until(store, keys.guest_report("alpha", 101), has=b"other words")
    assert [c.since for c in GuestReport.model_validate_json(said).conditions] == [NOON]


async def test_reports_are_written_when_etcd_is_back(
    own_etcd: EtcdCluster, own_store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    agent = Agent(own_store, keys, tmp_path)
    async with agent.reporting():
        await until(own_store, keys.agent("alpha"))
        own_etcd.kill9(0)
        agent.workers[101] = Worker(101, GuestState(1))
        agent.reporter.changed()
        await asyncio.sleep(1)
        own_etcd.start(0)
        await until(own_store, keys.guest_report("alpha", 101))


async def test_hundreds_of_reports_go_in_as_many_transactions_as_etcd_wants(
    store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    agent = Agent(store, keys, tmp_path)
    agent.workers = {vmid: Worker(vmid, GuestState(1)) for vmid in range(1000, 1350)}
    async with agent.reporting():
        await until(store, keys.agent("alpha"))  # written last: `self` sorts behind `guests`
        await until(store, keys.guest_report("alpha", 1349))
    assert len((await store.list(keys.agent_prefix("alpha"))).items) == 351
