"""`holdfast snapshot`, and snapshot policies on the command line, against a real etcd and an agent's API."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from holdfast.coordinator.model.answers import Answer, Foreign, GuestSnapshots, Leftover, Leftovers, Snapshots
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.report import AgentReport, GuestReport, PointReport, ReplicaReport
from holdfast.coordinator.model.snapshot_policy import Wish
from holdfast.coordinator.store.client import EtcdStore
from integration.etcd_cluster import EtcdCluster
from integration.test_cli import EXAMPLE, Holdfast, Process

HOURLY = """\
kind: SnapshotPolicy
name: hourly
spec: {selector: {all: true}, schedule: hourly, keep: 36h/5d/2m, replicas: "last=3", prefix: auto}
"""


@pytest.fixture
def process(etcd: EtcdCluster, prefix: str) -> Process:
    return Process(etcd, prefix.strip("/"))


@pytest.fixture
def holdfast(etcd: EtcdCluster, prefix: str) -> Holdfast:
    return Holdfast(etcd, prefix.strip("/"))


def test_a_snapshot_policy_is_applied_shown_compared_and_deleted(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    assert holdfast.apply(HOURLY) == "snapshot-policy/hourly created\n"
    assert holdfast.apply(HOURLY) == "snapshot-policy/hourly unchanged\n"
    assert "all guests at hourly, keep hourly=36,daily=5,monthly=2, on replicas last=3" in holdfast.ok("get")
    shown = holdfast.ok("get", "snapshot-policy", "-o", "yaml")
    assert "kind: SnapshotPolicy" in shown
    assert holdfast.apply(shown) == "snapshot-policy/hourly unchanged\n"
    assert "+  prefix: hand" in holdfast.refused("diff", "-f", "-", stdin=HOURLY.replace("auto", "hand"))
    assert "there is no policy hourly" in holdfast.refused("get", "policy", "hourly")
    assert holdfast.ok("delete", "snapshot-policy", "hourly") == "snapshot-policy/hourly deleted\n"


def test_two_kinds_of_policies_share_their_names(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    taken = HOURLY.replace("name: hourly", "name: to-beta")
    assert "there is a ProtectionPolicy of that name" in holdfast.refused("apply", "-f", "-", stdin=taken)
    assert "refused: there is no such snapshot-policy" in holdfast.refused("delete", "snapshot-policy", "to-beta")
    assert "at most 60s old" in holdfast.ok("get", "policy", "to-beta")


def test_a_policy_with_a_mistake_is_refused_with_the_field(holdfast: Holdfast) -> None:
    for wrong, said in (
        ("schedule: hourly, ", "give one of schedule"),
        ("prefix: auto", "prefix: 'Au-to' is not allowed"),
        ("36h/5d/2m", "no count with h, d, w, m or y"),
    ):
        changed = {"schedule: hourly, ": "", "prefix: auto": "prefix: Au-to", "36h/5d/2m": "36h/5x"}[wrong]
        assert said in holdfast.refused("apply", "-f", "-", stdin=HOURLY.replace(wrong, changed))
    unknown = HOURLY.replace("all: true", "storage: [nowhere]")
    assert "UnknownStorage" in holdfast.refused("apply", "-f", "-", stdin=unknown)


async def reported(process: Process, store: EtcdStore) -> None:
    """Three points where guest 101 runs, of which the newest is needed; the first is on a replica as well."""
    now = datetime.now(UTC)
    keys = process.keys

    def point(sequence: int, hours: int, **fields: object) -> PointReport:
        made = {"epoch": 1, "sequence": sequence, "instant": now - timedelta(hours=hours), "disks": 1, "size": 2**30}
        return PointReport.model_validate({**made, "consistency": Consistency.ATOMIC, **fields})

    first = point(5, 9, request="snapshot-101-abc", note="before the upgrade", kept=("asked for",))
    late = point(6, 8, policies=("hourly",), late=True, asked=Wish.FROZEN, kept=("hourly",))
    newest = point(7, 7, policies=("hourly",), kept=("hourly",), needed=("the newest", "what beta has"))
    await store.put(keys.owner(101), Owner(node="alpha", epoch=1, since=now, by="w1").to_json())
    await store.put(keys.agent("alpha"), AgentReport(version="0.1.0", started=now, seen=now).to_json())
    await store.put(keys.guest_report("alpha", 101), GuestReport(epoch=1, points=(first, late, newest)).to_json())
    await store.put(keys.replica_report("beta", 101), ReplicaReport(points=(first,)).to_json())


async def test_points_say_what_they_were_taken_for_and_why_they_stay(process: Process, store: EtcdStore) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE, HOURLY)
    await reported(process, store)
    done = await asyncio.to_thread(process.run, "snapshot", "list", "101")
    rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert "agent on alpha" in done.stderr, "nobody answers there, and that is said"
    assert [row.split()[:2] for row in rows[1:]] == [
        ["alpha", "1-5"], ["alpha", "1-6"], ["alpha", "1-7"], ["beta", "1-5"]
    ]  # fmt: skip
    assert "a request" in rows[1]
    assert "asked for" in rows[1]
    assert rows[1].endswith("before the upgrade")
    assert "hourly (late)" in rows[2]
    assert "atomic (frozen was wanted)" in rows[2]
    assert "hourly, replication: the newest, replication: what beta has" in rows[3]
    points = await asyncio.to_thread(process.ok, "points", "101")
    assert "hourly (late)" in points
    status = await asyncio.to_thread(process.ok, "status")
    assert "SnapshotsMissing: Guest 101 has had no snapshot since" in status
    explained = await asyncio.to_thread(process.ok, "explain", "101")
    assert "Snapshot policy hourly selects it: it selects all guests; at hourly, keep hourly=36" in explained
    assert "it has 2, the newest is 1-7" in explained


async def test_a_snapshot_is_asked_for_and_its_deletion(process: Process, store: EtcdStore) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    assert "NoOwner" in await asyncio.to_thread(process.refused, "snapshot", "create", "101")
    await reported(process, store)
    said = await asyncio.to_thread(process.ok, "snapshot", "create", "101", "--note", "for Ann")
    assert said.startswith("Asked for a snapshot of guest 101 (snapshot-101-")
    [item] = (await store.list(process.keys.desired("requests", ""))).items
    request = json.loads(item.value)
    assert (request["action"], request["vmid"], request["note"]) == ("snapshot", 101, "for Ann")
    await store.put(process.keys.desired("requests", "snapshot-101-abc"), item.value)

    refused = await asyncio.to_thread(process.refused, "snapshot", "delete", "101", "1-7", "1-9")
    assert "point 1-7 refused: replication needs it (the newest, what beta has)" in refused
    assert "point 1-9 refused: no node reports such a point" in refused
    assert await asyncio.to_thread(process.ok, "snapshot", "delete", "101", "1-5") == "point 1-5 is to be deleted\n"
    found = {i.key: json.loads(i.value) for i in (await store.list(process.keys.desired("requests", ""))).items}
    assert process.keys.desired("requests", "snapshot-101-abc") not in found, "it would be taken again"
    [deletion] = [r for r in found.values() if r["action"] == "delete"]
    assert (deletion["point"]["epoch"], deletion["point"]["sequence"]) == (1, 5)


async def test_wrong_usage_is_told(process: Process) -> None:
    for args in (("delete", "101"), ("delete", "101", "x"), ("delete", "101", "1-1", "--policy", "a")):
        assert (await asyncio.to_thread(process.run, "snapshot", *args)).returncode == 2
    assert (await asyncio.to_thread(process.run, "snapshot", "list", "999")).returncode == 1


@contextlib.asynccontextmanager
async def agent_answering(process: Process, path: str, answered: Answer) -> AsyncIterator[None]:
    """The node alpha of the example, of which the agent says so at this path."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=answered.model_dump_json(), content_type="application/json")

    application = web.Application()
    application.add_routes([web.get(path, answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await asyncio.to_thread(process.apply, EXAMPLE.replace("api_port: 1}", f"api_port: {port}}}", 1))
        yield
    finally:
        await runner.cleanup()


async def test_what_others_made_is_shown_with_its_origin(process: Process, store: EtcdStore) -> None:
    made = Foreign(dataset="tank/guests/vm-101-disk-0", snapshot="autosnap_x", origin="sanoid", used=4096)
    answer = Snapshots(guests=(GuestSnapshots(vmid=101, foreign=(made,)),))
    async with agent_answering(process, "/v1/snapshots", answer):
        await reported(process, store)
        shown = await asyncio.to_thread(process.ok, "snapshot", "list", "101")
    assert "Made by others; Holdfast leaves them alone:" in shown
    assert shown.splitlines()[-1].split() == ["alpha", "tank/guests/vm-101-disk-0@autosnap_x", "sanoid", "4.0", "KiB"]


async def test_leftovers_are_shown_with_their_proof_and_what_removes_them(process: Process) -> None:
    name = "tank/holdfast/aside/101-e1-1-vm-101-disk-0"
    found = Leftover(kind="aside", name=name, vmid=101, used=4096, proof="unused", remove=f"zfs destroy -r {name}")
    goes = Leftover(kind="half-received", name="tank/x", vmid=101, used=1, proof="no snapshot", remove="")
    async with agent_answering(process, "/v1/leftovers", Leftovers(found=(found, goes))):
        shown = await asyncio.to_thread(process.ok, "leftovers", "--node", "alpha")
        commands = await asyncio.to_thread(process.ok, "leftovers", "--node", "alpha", "--commands")
        silent = await asyncio.to_thread(process.run, "leftovers")
    assert shown.splitlines()[1].split() == ["alpha", "aside", name, "101", "4.0", "KiB", "unused"]
    assert "no snapshot (its agent removes it)" in shown
    assert commands == f"# on alpha: unused\nzfs destroy -r {name}\n"
    assert silent.returncode == 1, "beta says nothing"
    assert name in silent.stdout
    assert "agent on beta: " in silent.stderr
