"""The mirror and `holdfast import`, on a real etcd and a copy of the made-up cluster."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from holdfast.agent.host import LinuxHost
from holdfast.agent.mirror.export import StorageExport
from holdfast.agent.mirror.pve import PveMirror
from holdfast.coordinator.cli.connection import Connection
from holdfast.coordinator.cli.importing import import_
from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.mirror.sync import index_key, leader_key
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.client import EtcdStore
from integration.etcd_cluster import EtcdCluster

PVE = Path(__file__).parents[1] / "fixtures" / "pve"
GUEST = "nodes/alpha/qemu-server/101.conf"
_numbers = itertools.count(1)


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace(f"mirror-{next(_numbers)}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pve"
    shutil.copytree(PVE, root)
    for file in root.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return root


@contextlib.asynccontextmanager
async def mirroring(store: EtcdStore, keyspace: Keyspace, root: Path, node: str = "alpha") -> AsyncIterator[None]:
    mirror = PveMirror(store, keyspace, node, root, host=LinuxHost(root.with_name(f"state-{node}")), ttl=2.0)
    task = asyncio.create_task(mirror.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def guest(store: EtcdStore, keyspace: Keyspace, vmid: int) -> Guest | None:
    kv = await store.get(keyspace.desired("guests", vmid))
    return None if kv is None else Guest.model_validate_json(kv.value)


async def until(condition: Callable[[], object], within: float) -> float:
    """Wait for a condition (a function that returns an awaitable); returns the seconds that it took."""
    start = time.monotonic()
    while time.monotonic() - start < within:
        if await condition():  # type: ignore[misc]
            return time.monotonic() - start
        await asyncio.sleep(0.02)
    pytest.fail(f"it did not happen within {within} s")


async def synced(store: EtcdStore, keyspace: Keyspace, guests: int = 40) -> None:
    async def all_there() -> bool:
        listing = await store.list(keyspace.desired("guests", ""))
        return len(listing.items) == guests and await store.get(index_key(keyspace)) is not None

    await until(all_there, 20)


async def test_the_whole_cluster_shows_and_a_change_within_two_seconds(
    store: EtcdStore, keyspace: Keyspace, root: Path
) -> None:
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace)
        assert len((await store.list(keyspace.desired("storage", ""))).items) == 16
        took = []
        for name in ("one", "two", "three"):
            text = (root / GUEST).read_text()
            (root / GUEST).write_text(re.sub("^name: .*$", f"name: {name}", text, flags=re.MULTILINE))

            async def changed(wanted: str = name) -> bool:
                found = await guest(store, keyspace, 101)
                return found is not None and found.name == wanted

            took.append(await until(changed, 2))
        assert max(took) < 2

        (root / GUEST).rename(root / "nodes/beta/qemu-server/101.conf")

        async def moved() -> bool:
            found = await guest(store, keyspace, 101)
            return found is not None and found.node == "beta"

        await until(moved, 2)


async def test_a_guest_that_is_gone_goes_and_what_people_wrote_stays(
    store: EtcdStore, keyspace: Keyspace, root: Path
) -> None:
    await store.put(keyspace.desired("guests", 999), Guest(type="lxc").to_json())
    await store.put(keyspace.desired("storage", "by-hand"), Storage(type="dir").to_json())
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace, 41)
        (root / GUEST).unlink()

        async def gone() -> bool:
            return await guest(store, keyspace, 101) is None

        await until(gone, 2)
        assert await guest(store, keyspace, 999)
        assert await store.get(keyspace.desired("storage", "by-hand"))


async def test_nothing_is_written_where_nothing_changed(store: EtcdStore, keyspace: Keyspace, root: Path) -> None:
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace)
        await asyncio.sleep(1.5)
        before = {kv.key: kv.mod_revision for kv in (await store.list(keyspace.root)).items}
        await asyncio.sleep(2)
        assert {kv.key: kv.mod_revision for kv in (await store.list(keyspace.root)).items} == before


async def test_a_half_written_file_is_never_taken(store: EtcdStore, keyspace: Keyspace, root: Path) -> None:
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace)
        before = await store.get(keyspace.desired("guests", 101))
        whole = (root / GUEST).read_text() + "tags: whole\n"
        for cut in range(0, len(whole), len(whole) // 8):  # about 2.5 s of writing
            (root / GUEST).write_text(whole[:cut])
            await asyncio.sleep(0.3)
        assert await store.get(keyspace.desired("guests", 101)) == before
        (root / GUEST).write_text(whole)

        async def whole_now() -> bool:
            found = await guest(store, keyspace, 101)
            return found is not None and found.tags == ("whole",)

        await until(whole_now, 2)
        after = await store.get(keyspace.desired("guests", 101))
        assert before is not None
        assert after is not None
        assert after.version == before.version + 1


async def test_a_pve_that_is_gone_or_empty_or_partly_unreadable_removes_nothing(
    store: EtcdStore, keyspace: Keyspace, root: Path
) -> None:
    away = root.with_name("away")
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace)
        before = (await store.list(keyspace.desired_prefix)).items
        os.rename(root, away)
        await asyncio.sleep(1.5)
        os.mkdir(root)
        await asyncio.sleep(1.5)
        assert (await store.list(keyspace.desired_prefix)).items == before
        os.rmdir(root)
        os.rename(away, root)
        (root / "nodes/beta/lxc").rename(root / "nodes/beta/kept")
        (root / "nodes/beta/lxc").write_text("no directory")
        await asyncio.sleep(1.5)
        assert (await store.list(keyspace.desired_prefix)).items == before


async def test_a_broken_section_leaves_the_last_good_record_in_force(
    store: EtcdStore, keyspace: Keyspace, root: Path
) -> None:
    async with mirroring(store, keyspace, root):
        await synced(store, keyspace)
        before = await store.get(keyspace.desired("storage", "tank"))
        text = (root / "storage.cfg").read_text()
        (root / "storage.cfg").write_text(
            text.replace("pool tank/vms", "pond tank/vms").replace("vers=4.2", "vers=4.1")
        )

        async def nas_changed() -> bool:
            kv = await store.get(keyspace.desired("storage", "nas"))
            return kv is not None and b"vers=4.1" in kv.value

        await until(nas_changed, 2)
        await asyncio.sleep(1.2)
        assert await store.get(keyspace.desired("storage", "tank")) == before


async def test_one_node_mirrors_and_another_takes_over_when_its_pve_has_no_quorum(
    store: EtcdStore, keyspace: Keyspace, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other)
    async with mirroring(store, keyspace, root, "alpha"):
        await synced(store, keyspace)
        async with mirroring(store, keyspace, other, "beta"):
            leader = await store.get(leader_key(keyspace))
            assert leader is not None
            assert leader.value == b"alpha"
            os.chmod(root, 0o555)
            (root / GUEST).write_text("name: stale\n")
            (other / GUEST).write_text("name: fresh\n")

            async def fresh() -> bool:
                found = await guest(store, keyspace, 101)
                assert found is None or found.name != "stale"
                return found is not None and found.name == "fresh"

            await until(fresh, 15)
            os.chmod(root, 0o755)


def run(etcd: EtcdCluster, keyspace: Keyspace, *args: object) -> Result:
    settings = EtcdSettings(
        endpoints=tuple(f"http://{endpoint}" for endpoint in etcd.endpoints), cluster=keyspace.cluster
    )
    return CliRunner().invoke(import_, [str(arg) for arg in args], obj=Connection(settings))


def test_an_import_of_proxmox_writes_once(etcd: EtcdCluster, keyspace: Keyspace, root: Path) -> None:
    dry = run(etcd, keyspace, "pve", root, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.count("created (dry run)") == 16 + 40 + 3 + 7
    start = time.monotonic()
    first = run(etcd, keyspace, "pve", root)
    assert first.exit_code == 0, first.output
    assert time.monotonic() - start < 20
    assert first.stdout.count("created") == 16 + 40 + 3 + 7
    second = run(etcd, keyspace, "pve", root)
    assert (second.exit_code, second.stdout) == (0, "nothing to change\n")
    (root / GUEST).write_text("name: other\n")
    assert run(etcd, keyspace, "pve", root).stdout == "guests/101 changed\n"


def test_an_import_says_what_it_could_not_take(etcd: EtcdCluster, keyspace: Keyspace, root: Path) -> None:
    (root / "storage.cfg").write_text("zfspool: bad\n\tpool a@b\n")
    result = run(etcd, keyspace, "pve", root)
    assert result.exit_code == 1
    assert "not a dataset name" in result.output
    assert "storage/local created" in result.stdout
    (root / "storage.cfg").unlink()
    assert run(etcd, keyspace, "pve", root).exit_code == 1


def test_an_import_of_libvirt_writes_once(etcd: EtcdCluster, keyspace: Keyspace, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "qemu").mkdir()
    (tmp_path / "storage/tank.xml").write_text(
        "<!-- WARNING: AUTO-GENERATED -->"
        "<pool type='zfs'><name>tank</name><source><name>tank/vms</name></source></pool>"
    )
    (tmp_path / "qemu/web.xml").write_text(
        "<domain><name>web</name><devices><disk type='block'><source dev='/dev/zvol/tank/vms/web'/>"
        "<target dev='vda'/></disk></devices></domain>"
    )
    result = run(etcd, keyspace, "libvirt", tmp_path, "--node", "delta")
    assert (result.exit_code, result.stdout) == (0, "storage/tank created\nguests/100000 created\n")
    assert run(etcd, keyspace, "libvirt", tmp_path, "--node", "delta").stdout == "nothing to change\n"
    assert run(etcd, keyspace, "libvirt", tmp_path / "qemu", "--node", "delta").exit_code == 1


async def test_storages_are_written_for_a_node_without_proxmox(
    store: EtcdStore, keyspace: Keyspace, tmp_path: Path
) -> None:
    target = tmp_path / "storage.cfg"
    target.write_text("# kept\n")
    cache, host = Cache(store, keyspace.desired_prefix), LinuxHost(tmp_path / "state")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (cache.run(), StorageExport(cache, keyspace, target, host).run())]
        for pool in ("one", "two"):
            record = Storage(type="zfspool", properties={"pool": f"tank/{pool}"})
            await store.put(keyspace.desired("storage", "tank"), record.to_json())

            async def written(line: str = f"\tpool tank/{pool}\n") -> bool:
                return line in target.read_text()

            await until(written, 2)
        await store.put(keyspace.desired("storage", "bad"), b"{}")
        await store.delete(keyspace.desired("storage", "tank"))

        async def removed() -> bool:
            return "tank" not in target.read_text()

        await until(removed, 2)
        for task in tasks:
            task.cancel()
    assert target.read_text().startswith("# kept\n")
    assert sorted(os.listdir(tmp_path)) == ["state", "storage.cfg"]
