"""The real `holdfast-coordinator` against a real etcd."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.kept_mark import FILE
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.owner import Meta, Owner
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.owners import Owners
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.election import Election, Leadership
from holdfast.coordinator.store.mark import Mark
from integration.etcd_cluster import EtcdCluster

COMMAND = Path(sys.executable).parent / "holdfast-coordinator"
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def keys(prefix: str) -> Keyspace:
    return Keyspace(prefix.strip("/"))


@pytest.fixture
async def start(etcd: EtcdCluster, keys: Keyspace, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a coordinator; whatever still runs at the end is killed."""
    children: list[asyncio.subprocess.Process] = []

    async def begin(name: str, *args: str, **environment: str) -> asyncio.subprocess.Process:
        endpoints = ",".join(f"http://{endpoint}" for endpoint in etcd.endpoints)
        here = {"HOLDFAST_ENDPOINTS": endpoints, "HOLDFAST_CLUSTER": keys.cluster, "HOLDFAST_NAME": name}
        here["HOLDFAST_STATE"] = str(tmp_path / "state" / name)
        child = await asyncio.create_subprocess_exec(
            COMMAND, *args, env={**os.environ, **here, **environment}, stderr=asyncio.subprocess.PIPE
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def until(store: EtcdStore, key: str, kind: str = "put") -> bytes:
    """The value with which the key was written (or empty: deleted), now or within 30 s."""
    async with asyncio.timeout(30):
        present = await store.get(key)
        if kind == "put" and present is not None:
            return present.value
        if kind == "delete" and present is None:
            return b""
        async with aclosing(store.watch(key, present.mod_revision + 1 if present else 1)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.kind == kind and event.kv.key == key:
                        return event.kv.value
    raise AssertionError("the watch ended")


async def desire(store: EtcdStore, keys: Keyspace, **guests: str) -> None:
    for node in ("alpha", "beta"):
        await store.put(keys.desired("nodes", node), Node(address="127.0.0.1").to_json())
    for vmid, node in guests.items():
        await store.put(keys.desired("guests", vmid[1:]), Guest(type="qemu", node=node).to_json())


async def test_a_leader_founds_the_keyspace_and_names_the_first_owners(
    start: Start, store: EtcdStore, keys: Keyspace
) -> None:
    await desire(store, keys, g101="alpha", g102="nowhere")
    await start("w1")
    owner = Owner.model_validate_json(await until(store, keys.owner(101)))
    assert (owner.node, owner.epoch, owner.by) == ("alpha", 1, "w1")
    meta = Meta.model_validate_json(await until(store, keys.meta))
    assert (meta.format, meta.generation) == (1, 1)
    await desire(store, keys, g103="beta")
    assert Owner.model_validate_json(await until(store, keys.owner(103))).node == "beta"
    assert await store.get(keys.owner(102)) is None
    await store.put(keys.desired("nodes", "nowhere"), Node(address="127.0.0.1").to_json())
    assert Owner.model_validate_json(await until(store, keys.owner(102))).node == "nowhere"


async def test_an_owner_that_is_there_stays_whatever_the_records_say(
    start: Start, store: EtcdStore, keys: Keyspace
) -> None:
    kept = Owner(node="beta", epoch=7, since=datetime.now(UTC), by="somebody").to_json()
    await store.put(keys.owner(101), kept)
    await store.put(keys.owner(104), b"unreadable")
    await desire(store, keys, g101="alpha", g104="alpha", g102="alpha")
    await start("w1")
    await until(store, keys.owner(102))
    assert (await store.get(keys.owner(101))) is not None
    assert await until(store, keys.owner(101)) == kept
    assert await until(store, keys.owner(104)) == b"unreadable"


async def test_a_bad_record_keeps_no_other_guest_from_its_owner(start: Start, store: EtcdStore, keys: Keyspace) -> None:
    await store.put(keys.desired("guests", "101"), b"{")
    await store.put(keys.desired("guests", "x/y z\n"), b"{")
    await desire(store, keys, g102="alpha")
    await start("w1")
    await until(store, keys.owner(102))
    assert await store.get(keys.owner(101)) is None


async def test_many_guests_get_their_owners(start: Start, store: EtcdStore, keys: Keyspace) -> None:
    await desire(store, keys, **{f"g{vmid}": "alpha" for vmid in range(200, 450)})
    await start("w1")
    for vmid in range(200, 450):
        await until(store, keys.owner(vmid))


async def test_of_two_one_leads_and_at_sigterm_the_other_takes_over_at_once(
    start: Start, store: EtcdStore, keys: Keyspace
) -> None:
    first = await start("w1")
    assert await until(store, keys.leader) == b"w1"
    await start("w2")
    first.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await first.wait() == 0
    await until(store, keys.leader)
    await desire(store, keys, g101="alpha")
    assert Owner.model_validate_json(await until(store, keys.owner(101))).by == "w2"


async def test_requests_older_than_a_day_are_pruned(start: Start, store: EtcdStore, keys: Keyspace) -> None:
    now = datetime.now(UTC)
    for name, age in (("old", timedelta(hours=25)), ("new", timedelta(hours=23))):
        request = Request(action="replicate", vmid=101, asked=now - age)
        await store.put(keys.desired("requests", name), request.to_json())
    await start("w1")
    await until(store, keys.desired("requests", "old"), "delete")
    assert await store.get(keys.desired("requests", "new")) is not None


async def test_a_keyspace_of_a_newer_format_is_refused(start: Start, store: EtcdStore, keys: Keyspace) -> None:
    await store.put(keys.meta, Meta(format=2, cluster_uuid="u").to_json())
    child = await start("w1")
    async with asyncio.timeout(30):
        _, log = await child.communicate()
    assert child.returncode == 1
    assert "is of format 2, this version knows 1" in json.loads(log.splitlines()[-1])["reason"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("left", "says"), [("nothing", "it is one without `meta`"), ("a backup", "this node has seen .*raise `generation`")]
)
async def test_an_etcd_that_was_lost_or_restored_is_not_decided_in(
    start: Start, own_etcd: EtcdCluster, own_store: EtcdStore, keys: Keyspace, tmp_path: Path, left: str, says: str
) -> None:
    """Else owners would be named anew, with epochs that begin again at 1."""
    there = {"HOLDFAST_ENDPOINTS": f"http://{own_etcd.endpoints[0]}"}
    backup, kept = tmp_path / "backup", tmp_path / "state" / "w1" / FILE
    first = await start("w1", **there)
    await until(own_store, keys.meta)
    await asyncio.to_thread(own_etcd.kill9, 0)
    await asyncio.to_thread(shutil.copytree, own_etcd.data(), backup)
    await asyncio.to_thread(own_etcd.start_all)
    await desire(own_store, keys, g101="alpha")
    await until(own_store, keys.owner(101))
    owned = await own_store.get(keys.owner(101))
    assert owned
    async with asyncio.timeout(60):
        while not kept.exists() or Mark.model_validate_json(kept.read_bytes()).revision < owned.mod_revision:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    first.kill()

    own_etcd.kill9(0)
    await asyncio.to_thread(shutil.rmtree, own_etcd.data())
    if left == "a backup":
        await asyncio.to_thread(shutil.copytree, backup, own_etcd.data())
    await asyncio.to_thread(own_etcd.start_all)
    async with EtcdStore(own_etcd.endpoints) as restored:
        await desire(restored, keys, g102="alpha")
        second = await start("w1", **there)
        async with asyncio.timeout(60):
            _, log = await second.communicate()
        assert second.returncode == 1
        assert re.search(says, json.loads(log.splitlines()[-1])["reason"])
        assert await restored.get(keys.owner(102)) is None


async def test_systemd_is_told_of_the_start_and_the_stop(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        child = await start("w1", NOTIFY_SOCKET=str(path))
        async with asyncio.timeout(30):
            assert await loop.sock_recv(listener, 100) == b"READY=1"
            child.send_signal(signal.SIGTERM)
            assert await loop.sock_recv(listener, 100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoints: nonsense\n", "endpoints"),
        ("colour: red\n", "colour: unknown field"),
        ("name: two words\n", "name"),
        ("- a list\n", "settings"),
        ("a: [\n", "cannot be read"),
    ],
)
async def test_bad_settings_are_wrong_usage(start: Start, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    child = await start("w1", "--config", str(file), HOLDFAST_ENDPOINTS="", HOLDFAST_NAME="")
    _, said = await child.communicate()
    assert child.returncode == 2, said
    assert says in said.decode()
    assert b"Traceback" not in said


async def test_a_deposed_leader_writes_no_owner(store: EtcdStore, keys: Keyspace) -> None:
    """Its cache may still show the guest without an owner, and it may not know yet that its term is over."""
    await desire(store, keys, g101="alpha")
    cache = Cache(store, keys.root)
    owners = Owners(store, cache, keys, "w1", SystemClock())
    led: asyncio.Future[Leadership] = asyncio.get_running_loop().create_future()

    async def lead(leadership: Leadership) -> None:
        led.set_result(leadership)

    await Election(store, keys.leader, "w1", ttl=10).run(lead)  # elected, and resigned
    leadership = await led
    following = asyncio.create_task(cache.run())
    deciding = asyncio.create_task(owners.lead(leadership))
    try:
        await cache.synced.wait()
        await store.put(keys.leader, b"w2")  # another leads
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5):
                await deciding
        assert await store.get(keys.owner(101)) is None
        assert await store.get(keys.meta) is None
    finally:
        for task in (deciding, following):
            task.cancel()
        await asyncio.gather(deciding, following, return_exceptions=True)
