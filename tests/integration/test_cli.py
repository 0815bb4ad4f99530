"""The `holdfast` command against a real etcd."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from holdfast.coordinator.cli import documents
from holdfast.coordinator.cli.apply import Entry, write
from holdfast.coordinator.cli.main import cli
from holdfast.coordinator.cli.state import load
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.report import AgentReport, GuestReport, PointReport, ReplicaReport, TargetReport
from holdfast.coordinator.planning.desired import parse
from holdfast.coordinator.store.client import EtcdStore
from integration.etcd_cluster import EtcdCluster

COMMAND = Path(sys.executable).parent / "holdfast"
EXAMPLE = """\
kind: Node
name: alpha
spec: {address: 127.0.0.1, api_port: 1}
---
kind: Node
name: beta
spec: {address: 127.0.0.1, api_port: 1}
---
kind: Storage
name: local-zfs
spec: {type: zfspool, properties: {pool: tank/guests}}
---
kind: Storage
name: nfs
spec: {type: nfs, shared: true}
---
kind: Guest
name: 101
spec: {type: qemu, name: web, node: alpha, disks: {scsi0: {volume: "local-zfs:vm-101-disk-0"}}}
---
kind: ProtectionPolicy
name: to-beta
spec: {selector: {all: true}, targets: [{node: beta}], rpo: 60s}
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Holdfast:
    """The command for one cluster of the keyspace, run within the test's process."""

    def __init__(self, etcd: EtcdCluster, cluster: str) -> None:
        self.keys = Keyspace(cluster)
        endpoints = ",".join(f"http://{endpoint}" for endpoint in etcd.endpoints)
        self.environment = {"HOLDFAST_ENDPOINTS": endpoints, "HOLDFAST_CLUSTER": cluster}

    def run(self, *args: str, stdin: str = "") -> Done:
        result = CliRunner().invoke(cli, args, input=stdin, env=self.environment, prog_name="holdfast")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def ok(self, *args: str, stdin: str = "") -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def refused(self, *args: str, stdin: str = "") -> str:
        """Exit code 1, all that was said, and no traceback."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def apply(self, *documents: str) -> str:
        return self.ok("apply", "-f", "-", stdin="---\n".join(documents))


class Process(Holdfast):
    """The installed command, as a process of its own: beside a client of etcd on the test's event loop."""

    def run(self, *args: str, stdin: str = "") -> Done:
        done = subprocess.run(
            [COMMAND, *args],
            env={**os.environ, **self.environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def process(etcd: EtcdCluster, prefix: str) -> Process:
    return Process(etcd, prefix.strip("/"))


@pytest.fixture
def holdfast(etcd: EtcdCluster, prefix: str) -> Holdfast:
    return Holdfast(etcd, prefix.strip("/"))


def policy(name: str, **spec: object) -> str:
    made = {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": "60s", **spec}
    return json.dumps({"kind": "ProtectionPolicy", "name": name, "spec": made}) + "\n"


def guest(vmid: int | str, **spec: object) -> str:
    disks = {"scsi0": {"volume": f"local-zfs:vm-{vmid}-disk-0"}}
    return json.dumps(
        {"kind": "Guest", "name": vmid, "spec": {"type": "qemu", "node": "alpha", "disks": disks, **spec}}
    )


def test_what_is_applied_is_created_then_unchanged_then_changed(holdfast: Holdfast) -> None:
    first = holdfast.apply(EXAMPLE).splitlines()
    assert first == [
        "node/alpha created",
        "node/beta created",
        "storage/local-zfs created",
        "storage/nfs created",
        "guest/101 created",
        "policy/to-beta created",
    ]
    assert {line.split()[1] for line in holdfast.apply(EXAMPLE).splitlines()} == {"unchanged"}
    assert "policy/to-beta changed" in holdfast.apply(EXAMPLE.replace("60s", "30s"))


def test_a_dry_run_writes_nothing(holdfast: Holdfast) -> None:
    assert "policy/to-beta created (dry run)" in holdfast.ok("apply", "--dry-run", "-f", "-", stdin=EXAMPLE)
    assert holdfast.ok("get") == "KIND  NAME  WHAT\n"


def test_what_get_prints_can_be_applied_again_and_does_not_differ(holdfast: Holdfast, tmp_path: Path) -> None:
    holdfast.apply(EXAMPLE)
    for output in ("yaml", "json"):
        file = tmp_path / output / f"all.{output}"
        file.parent.mkdir()
        file.write_text(holdfast.ok("get", "-o", output))
        assert {line.split()[1] for line in holdfast.ok("apply", "-f", str(file.parent)).splitlines()} == {"unchanged"}
        assert holdfast.ok("diff", "-f", str(file)) == ""


def test_diff_shows_what_would_change_and_exits_with_1(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    shown = holdfast.refused("diff", "-f", "-", stdin=EXAMPLE.replace("60s", "30s"))
    assert "-  rpo: 60" in shown
    assert "+  rpo: 30" in shown
    assert "alpha" not in shown


BAD: list[tuple[str, str, str]] = [
    ("name with a space", guest("1 01"), "'1 01' cannot name one of guests"),
    ("name with a slash", policy("a/b"), "'a/b' cannot name one of policies"),
    ("leading dash", policy("-rf"), "'-rf' cannot name one of policies"),
    ("at sign", policy("a@b"), "'a@b' cannot name one of policies"),
    ("newline", policy("a\nb"), r"'a\nb' cannot name one of policies"),
    ("unicode", policy("zürich"), "'zürich' cannot name one of policies"),
    ("node name", guest(102, node="al pha"), "node: 'al pha' is not allowed"),
    ("size 0", guest(102, disks={"scsi0": {"volume": "local-zfs:v", "size": 0}}), "disks.scsi0.size"),
    ("size 2^63", guest(102, disks={"scsi0": {"volume": "local-zfs:v", "size": 2**63}}), "disks.scsi0.size"),
    ("unknown field", guest(102, colour="red"), "colour: unknown field"),
    ("unreplicable storage", guest(102, disks={"scsi0": {"volume": "nfs:v"}}), "UnreplicableStorage: Disk scsi0"),
    ("target is owner", policy("to-beta", targets=[{"node": "alpha"}]), "TargetIsOwner: Policy to-beta replicates"),
    ("no such node", policy("p", targets=[{"node": "gamma"}]), "UnknownNode: Policy p replicates to node gamma"),
    (
        "no such storage there",
        policy("p", selector={"vmid": [9999]}, targets=[{"node": "beta", "storages": {"local-zfs": "none"}}]),
        "TargetLacksStorage: Policy p maps local-zfs to storage none",
    ),
    (
        "storage of another type",
        policy("to-beta", targets=[{"node": "beta", "storages": {"local-zfs": "nfs"}}]),
        "TargetStorageType: Policy to-beta maps local-zfs of type zfspool to nfs of type nfs",
    ),
    ("two policies for one target", policy("p"), "DuplicateTarget: Policies to-beta and p both replicate guest 101"),
]


@pytest.mark.parametrize(("document", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_document_is_refused_with_its_reason_and_the_good_one_beside_it_is_written(
    holdfast: Holdfast, document: str, says: str
) -> None:
    holdfast.apply(EXAMPLE)
    fine = "kind: Node\nname: delta\nspec: {address: 10.0.0.4}\n"
    said = holdfast.refused("apply", "-f", "-", stdin=f"{document}\n---\n{fine}")
    assert f"refused: {says}" in said
    assert "node/delta created" in said
    assert "1 of 2 documents refused" in said
    assert holdfast.ok("get", "-o", "json", "policy") == holdfast.ok("get", "-o", "json", "policy", "to-beta")


def test_force_writes_what_does_not_fit_and_status_shows_it(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    wanted = policy("p", selector={"tag": ["none"]}, targets=[{"node": "gamma"}])
    said = holdfast.ok("apply", "--force", "-f", "-", stdin=wanted)
    assert said.startswith("policy/p created, against: UnknownNode: Policy p replicates to node gamma")
    assert "policies/p UnknownNode: Policy p replicates to node gamma" in holdfast.ok("status")


def test_force_writes_nothing_that_cannot_be_read(holdfast: Holdfast) -> None:
    holdfast.refused("apply", "--force", "-f", "-", stdin=guest(102, colour="red"))
    assert "102" not in holdfast.ok("get")


def test_the_same_document_twice_is_refused(holdfast: Holdfast) -> None:
    said = holdfast.refused("apply", "-f", "-", stdin=f"{guest(102)}\n---\n{guest(102)}\n")
    assert "guest/102 refused: given twice, at stdin:1 and at stdin:3" in said


async def test_more_documents_than_fit_a_transaction_are_written(process: Process, store: EtcdStore) -> None:
    nodes = "---\n".join(f"kind: Node\nname: n{number}\nspec: {{address: a}}\n" for number in range(250))
    await asyncio.to_thread(process.apply, nodes)
    assert len((await store.list(process.keys.desired_prefix)).items) == 250


async def test_what_somebody_else_changes_meanwhile_is_reported_and_not_overwritten(
    process: Process, store: EtcdStore
) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    found = [d for d in documents.read(EXAMPLE, "f") if isinstance(d, documents.Document)]
    entries = [Entry(d.label, d, parse(d.kind.folder, d.name, d.spec), "changed") for d in found]
    key = process.keys.desired("nodes", "alpha")
    state = await load(store, process.keys)
    await store.put(key, b'{"address": "10.9.9.9"}')
    await write(entries, state, store)
    assert [e.label for e in entries if e.refused] == ["node/alpha"]
    assert "somebody else changed it meanwhile" in entries[0].outcome
    changed = await store.get(key)
    assert changed is not None
    assert changed.value == b'{"address": "10.9.9.9"}'


def test_deleting_says_who_is_left_unprotected_and_refuses_unknown_names(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    said = holdfast.refused("delete", "policy", "to-beta", "absent")
    assert "policy/to-beta deleted" in said
    assert "policy/absent refused: there is no such policy" in said
    assert "Left unprotected: guest 101" in said


async def test_a_bad_record_in_etcd_is_shown_and_the_others_stay_as_they_are(
    process: Process, store: EtcdStore
) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    await store.put(process.keys.desired("guests", 102), b'{"type": "qemu", "colour": "red"}')
    await store.put(process.keys.desired("guests", "../x y\n"), b"{")
    shown = await asyncio.to_thread(process.ok, "status")
    assert "102 BadRecord: desired/guests/102 is refused: colour: unknown field" in shown
    assert shown.endswith("\n2 guests: 0 healthy, 0 breached, 2 unprotected\n")
    assert "cannot be read: colour: unknown field" in await asyncio.to_thread(process.ok, "get", "guest")


async def replicated(process: Process, store: EtcdStore, age: float) -> PointReport:
    """What the coordinator and the agents would have written."""
    now = datetime.now(UTC)
    point = PointReport(
        epoch=1, sequence=7, instant=now - timedelta(seconds=age), consistency=Consistency.ATOMIC, disks=1, size=2**30
    )
    keys = process.keys
    await store.put(keys.owner(101), Owner(node="alpha", epoch=1, since=now, by="w1").to_json())
    for node in ("alpha", "beta"):
        await store.put(keys.agent(node), AgentReport(version="0.1.0", started=now, seen=now).to_json())
    report = GuestReport(epoch=1, targets=(TargetReport(node="beta", policy="to-beta", last=point),))
    await store.put(keys.guest_report("alpha", 101), report.to_json())
    await store.put(keys.replica_report("beta", 101), ReplicaReport(points=(point,)).to_json())
    return point


async def test_status_points_and_explain_tell_of_a_replicated_guest(process: Process, store: EtcdStore) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    await replicated(process, store, age=10)
    shown = await asyncio.to_thread(process.ok, "status")
    [headers, row, _, last] = shown.splitlines()
    assert headers.split() == ["VMID", "NAME", "OWNER", "POLICY", "TARGET", "LAST", "POINT", "LAG", "RPO", "STATE"]
    assert row.split()[:7] == ["101", "web", "alpha", "(1)", "to-beta", "beta", "1-7"]
    assert row.split()[-2:] == ["60s", "healthy"]
    assert last == "1 guest: 1 healthy, 0 breached, 0 unprotected"
    told = json.loads(await asyncio.to_thread(process.ok, "status", "-o", "json"))
    [target] = told["guests"][0]["targets"]
    assert (told["guests"][0]["state"], target["last"]["id"], target["rpo_seconds"]) == ("healthy", "1-7", 60)
    assert 10 <= target["lag_seconds"] < 40
    assert told["summary"] == {
        "guests": 1, "healthy": 1, "breached": 0, "unprotected": 0, "syncing": 0, "observed": 0,
    }  # fmt: skip
    points = await asyncio.to_thread(process.ok, "points", "101")
    assert points.splitlines()[1].split()[:2] == ["beta", "1-7"]
    said = await asyncio.to_thread(process.ok, "explain", "101")
    assert "VM 101 web is healthy." in said
    assert "Policy to-beta selects it: it selects all guests" in said
    assert "goes to beta as local-zfs:vm-101-disk-0 (tank/guests/vm-101-disk-0)" in said
    assert "Storage local-zfs (type zfspool) cannot: make copies that do not need their point, keep what " in said
    assert "Nothing is wrong." in said


async def test_replicate_waits_until_every_target_has_a_newer_point(process: Process, store: EtcdStore) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    old = await replicated(process, store, age=10)
    waiting = asyncio.create_task(asyncio.to_thread(process.run, "replicate", "101", "--now"))
    async with asyncio.timeout(30), aclosing(store.watch(process.keys.desired("requests", ""), 1)) as batches:
        async for batch in batches:
            if batch.events:
                assert json.loads(batch.events[0].kv.value)["vmid"] == 101
                break
    assert not waiting.done()
    new = old.model_copy(update={"sequence": 8, "instant": datetime.now(UTC)})
    await store.put(process.keys.replica_report("beta", 101), ReplicaReport(points=(old, new)).to_json())
    done = await waiting
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "beta: point 1-8 is complete")


async def test_replicate_gives_up_at_its_timeout(process: Process, store: EtcdStore) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    await replicated(process, store, age=10)
    said = await asyncio.to_thread(process.refused, "replicate", "101", "--now", "--timeout", "1")
    assert "not every target of guest 101 has a new point" in said


def test_replicate_of_a_guest_that_nobody_protects_is_refused_with_the_reason(holdfast: Holdfast) -> None:
    holdfast.apply(EXAMPLE)
    holdfast.ok("delete", "policy", "to-beta")
    assert "Unprotected: No policy selects guest 101" in holdfast.refused("replicate", "101", "--now")
    assert "guest 999 is not known" in holdfast.refused("replicate", "999", "--now")


@pytest.fixture
async def agent() -> AsyncIterator[Callable[[], int]]:
    """Answers as an agent's HTTP API does."""
    transfer = {
        "vmid": 101, "disk": "scsi0", "target": "beta", "bytes": 2**20, "total": 2**22,
        "seconds": 2.0, "bytes_per_second": 2**19,
    }  # fmt: skip
    plan = {"guests": [{"vmid": 101, "steps": ["take point 1-8"], "due": "2026-01-01T00:00:00Z", "conditions": []}]}

    async def progress(_: web.Request) -> web.Response:
        return web.json_response({"transfers": [transfer]})

    async def planned(_: web.Request) -> web.Response:
        return web.json_response(plan)

    application = web.Application()
    application.add_routes([web.get("/v1/progress", progress), web.get("/v1/plan", planned)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield lambda: port
    await runner.cleanup()


async def test_plan_shows_what_the_agents_say_and_names_those_that_do_not_answer(
    process: Process, store: EtcdStore, agent: Callable[[], int]
) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE)
    await replicated(process, store, age=10)
    assert "agent on alpha: no answer from 127.0.0.1:1" in await asyncio.to_thread(process.refused, "plan")
    await asyncio.to_thread(process.apply, EXAMPLE.replace("api_port: 1", f"api_port: {agent()}"))
    shown = await asyncio.to_thread(process.ok, "plan", "101")
    assert shown == "guest 101, by alpha, next due 2026-01-01T00:00:00Z\n  1. take point 1-8\n"


async def test_watch_prints_a_block_at_each_change_with_running_transfers(
    process: Process, store: EtcdStore, agent: Callable[[], int]
) -> None:
    await asyncio.to_thread(process.apply, EXAMPLE.replace("api_port: 1", f"api_port: {agent()}"))
    await replicated(process, store, age=10)
    child = await asyncio.create_subprocess_exec(
        COMMAND, "status", "--watch", env=process.environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(30):
            first = (await child.stdout.readuntil(b"KiB/s")).decode()
            assert "1 guest: 1 healthy" in first
            assert "1.0 MiB  4.0 MiB (25%)" in first
            await store.delete(process.keys.desired("policies", "to-beta"))
            assert b"1 unprotected" in await child.stdout.readuntil(b"1 unprotected")
            child.send_signal(2)
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def test_etcd_away_is_said_in_a_line_and_exits_with_1(holdfast: Holdfast) -> None:
    said = holdfast.refused("--endpoint", "http://127.0.0.1:1", "status")
    assert "none of etcd's members (127.0.0.1:1) answered" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ("--endpoint", "127.0.0.1:1", "status"),
        ("--endpoint", "https://127.0.0.1:1", "status"),
        ("--cluster", "a/b", "status"),
        ("get", "dinners"),
        ("apply",),
        ("apply", "-f", "/does/not/exist"),
        ("replicate", "101"),
        ("explain", "web"),
        ("status", "--watch", "-o", "json"),
        ("unknown",),
    ],
)
def test_wrong_usage_exits_with_2(holdfast: Holdfast, args: tuple[str, ...]) -> None:
    done = holdfast.run(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_bad_files_are_said_in_a_line(holdfast: Holdfast, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").write_bytes(b"kind: \xe9")
    (tmp_path / "nothing.yaml").write_text("# nothing\n")
    assert "holds no *.yaml" in holdfast.refused("apply", "-f", str(tmp_path / "empty"))
    assert "is not UTF-8 (byte 6)" in holdfast.refused("apply", "-f", str(tmp_path / "latin"))
    assert "hold no document" in holdfast.refused("apply", "-f", str(tmp_path / "nothing.yaml"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_completes(process: Process, shell: str) -> None:
    assert "_HOLDFAST_COMPLETE" in process.ok("completion", shell)
    process.environment |= {"_HOLDFAST_COMPLETE": "bash_complete", "COMP_WORDS": "holdfast get po", "COMP_CWORD": "2"}
    assert process.run().stdout == "plain,policy\n"
