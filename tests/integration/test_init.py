"""`holdfast init`, `ca` and `join`, and what etcd then lets each identity do: real etcd, TLS and access control on."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import yaml
from holdfast.agent.config import AgentSettings
from holdfast.coordinator.cli import machine
from holdfast.coordinator.identity.authority import new_key
from holdfast.coordinator.identity.authority_files import AuthorityFiles
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Delete, OutcomeUnknown, PermissionDenied, Put, StoreError, absent
from holdfast.coordinator.store.tls import Tls
from integration.cluster_etcd import COMMAND, SecuredCluster, init, secured
from integration.etcd_cluster import free_port

KEYS = Keyspace("default")
ROOT = KEYS.root


@pytest.fixture(scope="module")
def cluster(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    with secured(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@contextlib.asynccontextmanager
async def store_of(cluster: SecuredCluster, role: Role, pki: Path | None = None) -> AsyncIterator[EtcdStore]:
    pki = pki or cluster.folder / "pki"
    tls = Tls(pki / "ca.crt", pki / f"{role}.crt", pki / f"{role}.key")
    async with EtcdStore([cluster.endpoint], tls) as store:
        yield store


def issued(cluster: SecuredCluster, name: str, role: Role, folder: Path) -> Path:
    """A certificate of the cluster's authority, of which etcd has not been told."""
    cluster.ok("ca", "issue", name, "--role", role, "--out", str(folder))
    return folder


# --- the first machine


def test_the_first_machine_has_settings_and_keys_that_only_root_can_read(cluster: SecuredCluster) -> None:
    for name in ("agent", "coordinator", "operator"):
        settings = yaml.safe_load((cluster.folder / f"{name}.yaml").read_text())
        assert settings["endpoints"] == [f"https://{cluster.endpoint}"]
    private = [*cluster.folder.rglob("*.key")]
    assert len(private) == 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_to_init_again_changes_nothing(cluster: SecuredCluster) -> None:
    before = {path: path.read_bytes() for path in cluster.folder.rglob("*") if path.suffix in (".key", ".crt", ".yaml")}
    assert init(cluster).returncode == 0
    assert before == {path: path.read_bytes() for path in before}


async def test_the_keyspace_is_founded_and_holds_no_private_key(cluster: SecuredCluster) -> None:
    async with store_of(cluster, Role.OPERATOR) as store:
        listing = await store.list(ROOT)
    found = {item.key: item.value for item in listing.items}
    assert json.loads(found[KEYS.meta])["generation"] == 1
    assert b"BEGIN X509 CRL" in found[KEYS.revoked]
    assert not any(b"PRIVATE" in value for value in found.values())


# --- what each may write

Attempt = Callable[[EtcdStore, str], Awaitable[object]]


async def put(store: EtcdStore, key: str) -> object:
    return await store.put(key, b"{}")


async def create(store: EtcdStore, key: str) -> object:
    return await store.transact([absent(key)], [Put(key, b"{}")])


async def delete(store: EtcdStore, key: str) -> object:
    return await store.delete(key)


async def delete_in_transaction(store: EtcdStore, key: str) -> object:
    return await store.transact([], [Delete(key)])


FOREIGN = [
    "meta",
    "leader",
    "revoked",
    "owners/101",
    "failovers/1",
    "desired/guests/101",
    "desired/placements/101",
    "desired/policies/gold",
    "desired/nodes/pve1",
    "desired/storage/local",
    "desired/requests/1",
    "mirror/leader",
    "mirror/index",
    "agents/pve2/self",
    "agents/pve10/self",
    "agents/pve1",
    "agents/",
    "contracts/pve2",
    "contracts/pve10",
    "contracts/pve1/more",
    "leases/pve2",
    "leases/pve10",
    "anything",
]
OWN = ["agents/pve1/self", "agents/pve1/guests/101", "contracts/pve1", "leases/pve1", "locks/101"]


@pytest.mark.parametrize("attempt", [put, create, delete, delete_in_transaction], ids=lambda each: each.__name__)
async def test_a_compromised_nodes_credentials_write_no_owner_no_desired_state_and_no_other_nodes_report(
    cluster: SecuredCluster, attempt: Attempt
) -> None:
    async with store_of(cluster, Role.NODE) as store:
        for key in FOREIGN:
            with pytest.raises(PermissionDenied):
                await attempt(store, ROOT + key)
        for key in (f"/holdfast/other{ROOT}owners/101", "/holdfast/defaulty/owners/101", "/elsewhere"):
            with pytest.raises(PermissionDenied):
                await attempt(store, key)
        for key in OWN:
            await attempt(store, ROOT + key)


async def test_a_compromised_node_cannot_end_anothers_lease_nor_bind_its_keys_to_one(cluster: SecuredCluster) -> None:
    async with store_of(cluster, Role.COORDINATOR) as coordinator, store_of(cluster, Role.NODE) as node:
        lease = await coordinator.grant(60)
        await coordinator.put(KEYS.leader, b"pve1", lease.id)
        with pytest.raises(PermissionDenied):
            await node.revoke(lease.id)
        with pytest.raises(PermissionDenied):
            await node.put(f"{ROOT}locks/7", b"{}", lease.id)
        assert await coordinator.get(KEYS.leader) is not None
        await coordinator.revoke(lease.id)


async def test_a_compromised_node_cannot_change_who_may_do_what(cluster: SecuredCluster) -> None:
    pki = cluster.folder / "pki"
    argv = ["etcdctl", "--endpoints", f"https://{cluster.endpoint}", "--cacert", str(pki / "ca.crt")]
    argv += ["--cert", str(pki / "node.crt"), "--key", str(pki / "node.key"), "--command-timeout", "3s"]
    for change in (
        ["user", "grant-role", "pve1", "coordinator"],
        ["user", "add", "mallory", "--no-password"],
        ["role", "grant-permission", "node/pve1", "readwrite", "/", "--prefix"],
        ["auth", "disable"],
    ):
        done = subprocess.run([*argv, *change], capture_output=True, text=True, timeout=20)  # noqa: ASYNC221
        assert done.returncode != 0, change
        assert "permission denied" in done.stderr, done.stderr


WRITES = {
    Role.COORDINATOR: ["owners/101", "leader", "failovers/1", "meta", "desired/requests/1"],
    Role.OPERATOR: ["desired/guests/101", "desired/policies/gold", "desired/requests/1", "desired/nodes/pve1"],
}


@pytest.mark.parametrize("role", WRITES)
async def test_a_coordinator_and_an_operator_write_what_is_theirs_and_no_more(
    cluster: SecuredCluster, role: Role
) -> None:
    async with store_of(cluster, Role.ADMIN) as admin:
        meta = await admin.get(KEYS.meta)
        assert meta is not None
        async with store_of(cluster, role) as store:
            for key in sorted({*FOREIGN, *OWN, *(key for keys in WRITES.values() for key in keys)}):
                if any(
                    key.startswith(own) for own in (*WRITES[role], *(["desired/"] if role is Role.OPERATOR else []))
                ):
                    await store.put(ROOT + key, b"{}")
                else:
                    with pytest.raises(PermissionDenied):
                        await store.put(ROOT + key, b"{}")
        await admin.put(KEYS.meta, meta.value)


async def test_a_certificate_that_etcd_was_not_told_of_reads_nothing(cluster: SecuredCluster, tmp_path: Path) -> None:
    stranger = issued(cluster, "pve9", Role.NODE, tmp_path / "pve9")
    async with store_of(cluster, Role.NODE, stranger) as store:
        with pytest.raises(StoreError):
            await store.get(KEYS.meta)


def test_no_node_can_be_called_as_etcds_administrator(cluster: SecuredCluster, tmp_path: Path) -> None:
    done = cluster.run("ca", "issue", "root", "--out", str(tmp_path / "root"))
    assert done.returncode == 1
    assert "may not be a name" in done.stderr


# --- joining


@pytest.fixture(scope="module")
def port(cluster: SecuredCluster) -> Iterator[int]:
    """`holdfast ca serve`, on this port."""
    number = free_port()
    argv = [COMMAND, "ca", "serve", "--listen", "127.0.0.1", "--port", str(number)]
    environment = {**os.environ, "HOLDFAST_DIR": str(cluster.folder)}
    service = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        line = service.stderr.readline()
        assert line == f"serving on 127.0.0.1:{number}\n", line
        yield number
        service.send_signal(signal.SIGTERM)
        assert service.wait(10) == 0
    finally:
        service.kill()
        service.communicate()


def token(cluster: SecuredCluster, port: int, name: str, *more: str) -> str:
    return cluster.ok("ca", "token", name, "--at", "127.0.0.1", "--port", str(port), *more).strip()


async def test_a_node_joins_with_a_token_and_writes_what_is_its_own(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    there = tmp_path / "pve2"
    said = cluster.ok("join", "pve2", token(cluster, port, "pve2"), folder=there)
    assert "pve2 has joined cluster default as node." in said
    assert stat.S_IMODE((there / "pki" / "node.key").stat().st_mode) == 0o600
    settings = yaml.safe_load((there / "agent.yaml").read_text())
    assert settings["node"] == "pve2"
    async with store_of(cluster, Role.NODE, there / "pki") as store:
        await store.put(f"{ROOT}agents/pve2/self", b"{}")
        with pytest.raises(PermissionDenied):
            await store.put(f"{ROOT}agents/pve1/self", b"{}")


def test_a_token_counts_once_and_may_come_by_standard_input(cluster: SecuredCluster, port: int, tmp_path: Path) -> None:
    made = token(cluster, port, "pve3")
    cluster.ok("join", "pve3", "-", folder=tmp_path / "pve3", stdin=f"{made}\n")
    again = cluster.run("join", "pve3", made, folder=tmp_path / "again")
    assert again.returncode == 1
    assert "it was used already" in again.stderr
    assert not (tmp_path / "again" / "pki").exists()


def test_a_token_for_another_name_is_not_used_up(cluster: SecuredCluster, port: int, tmp_path: Path) -> None:
    made = token(cluster, port, "pve4")
    wrong = cluster.run("join", "pve5", made, folder=tmp_path / "a")
    assert (wrong.returncode, "the token is for pve4, not for pve5" in wrong.stderr) == (1, True)
    cluster.ok("join", "pve4", made, folder=tmp_path / "b")


def test_a_token_of_another_authority_sends_its_secret_to_nobody(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    where, fingerprint, secret = token(cluster, port, "pve5").split("/")
    forged = f"{where}/{'0' * len(fingerprint)}/{secret}"
    done = cluster.run("join", "pve5", forged, folder=tmp_path / "a")
    assert done.returncode == 1
    assert "the authority at 127.0.0.1" in done.stderr
    assert secret not in done.stderr + done.stdout
    cluster.ok("join", "pve5", f"{where}/{fingerprint}/{secret}", folder=tmp_path / "b")


def test_an_expired_token_is_refused(cluster: SecuredCluster, port: int, tmp_path: Path) -> None:
    made = token(cluster, port, "pve6")
    for path in (cluster.folder / "ca" / "tokens").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"expires": "2026-01-01T00:00:00Z"}))
    done = cluster.run("join", "pve6", made, folder=tmp_path / "a")
    assert (done.returncode, "the token expired at" in done.stderr) == (1, True)


def test_the_authority_keeps_no_token_that_could_be_used(cluster: SecuredCluster, port: int) -> None:
    secret = token(cluster, port, "pve7").rpartition("/")[2]
    kept = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() or secret in path.name for path in kept)


@pytest.mark.parametrize("text", ["", "nonsense", "127.0.0.1:1/abc/def", "127.0.0.1/" + "0" * 64 + "/x"])
def test_what_is_no_token_is_told_so(cluster: SecuredCluster, tmp_path: Path, text: str) -> None:
    done = cluster.run("join", "pve8", text, folder=tmp_path / "a")
    assert (done.returncode, "this is no token" in done.stderr) == (1, True)


def test_a_witness_joins_as_coordinator_and_member_of_etcd(cluster: SecuredCluster, port: int, tmp_path: Path) -> None:
    there = tmp_path / "w1"
    cluster.ok("join", "w1", token(cluster, port, "w1", "--witness", "--address", "10.0.0.9"), folder=there)
    assert sorted(path.name for path in (there / "pki").glob("*.key")) == ["coordinator.key", "member.key"]
    assert (there / "coordinator.yaml").exists()
    assert not (there / "agent.yaml").exists()


async def test_what_mirrors_proxmox_writes_storages_and_guests_and_no_more(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    there = tmp_path / "pve9"
    cluster.ok("join", "pve9", token(cluster, port, "pve9", "--role", "node", "--role", "mirror"), folder=there)
    settings = AgentSettings.read(there / "agent.yaml")
    assert settings.mirror == Path("/etc/pve")
    own = ("desired/storage/local", "desired/guests/101", "mirror/leader", "mirror/index")
    async with settings.mirror_store() as store:
        for key in sorted({*FOREIGN, *OWN, *own}):
            if key in own:
                await store.put(ROOT + key, b"{}")
            else:
                with pytest.raises(PermissionDenied):
                    await store.put(ROOT + key, b"{}")


def serial(path: Path) -> str:
    return subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-serial"], check=True, capture_output=True, text=True
    ).stdout


def test_a_certificate_is_renewed_when_it_expires_soon_or_by_force(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    there = tmp_path / "pve2"
    cluster.ok("join", "pve2", token(cluster, port, "pve2"), folder=there)
    before = serial(there / "pki" / "node.crt")
    assert cluster.ok("renew", folder=there) == ""
    assert serial(there / "pki" / "node.crt") == before
    assert "node: renewed until" in cluster.ok("renew", "--force", folder=there)
    assert serial(there / "pki" / "node.crt") != before


@pytest.mark.timeout(180)
async def test_a_coordinator_goes_on_with_its_renewed_certificate_without_a_restart(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    await forget(cluster)
    there = tmp_path / "w2"
    cluster.ok("join", "w2", token(cluster, port, "w2", "--witness"), folder=there)
    log = there / "holdfast-coordinator.log"
    state = {"HOLDFAST_STATE": str(tmp_path / "state")}
    with daemon("holdfast-coordinator", there / "coordinator.yaml", state):
        async with store_of(cluster, Role.OPERATOR) as store, asyncio.timeout(90):
            while (leader := await store.get(KEYS.leader)) is None or leader.value != b"w2":  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            await asyncio.to_thread(cluster.ok, "renew", "--force", folder=there)
            while "etcd.certificates_read" not in await asyncio.to_thread(log.read_text):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            await store.put(KEYS.desired("nodes", "pve1"), b'{"address": "127.0.0.1"}')
            await store.put(KEYS.desired("guests", 777), b'{"type": "qemu", "node": "pve1"}')
            while (owner := await store.get(KEYS.owner(777))) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            assert b'"by":"w2"' in owner.value
            await store.delete(KEYS.desired("guests", 777))
            assert (await store.get(KEYS.leader)) == leader, "the same term"
    async with store_of(cluster, Role.ADMIN) as store:
        await store.delete(KEYS.owner(777))
    await forget(cluster)


def test_the_coordinators_key_belongs_to_the_user_of_its_unit(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = pytestconfig.rootpath / "systemd"
    user = machine._USERS[Role.COORDINATOR]
    assert f"\nUser={user}\n" in (units / "holdfast-coordinator.service").read_text()
    assert f"\nu {user} " in (units / "sysusers.conf").read_text()
    monkeypatch.setitem(machine._USERS, Role.COORDINATOR, "nobody")
    there, key = machine.Machine(tmp_path), new_key()
    there.keep(Role.COORDINATOR, b"", key)
    assert there.key(Role.COORDINATOR).owner() == "nobody"
    assert stat.S_IMODE(there.key(Role.COORDINATOR).stat().st_mode) == 0o600


async def test_a_revoked_node_is_refused_by_etcd_at_once_and_is_not_renewed(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    there = tmp_path / "pve8"
    cluster.ok("join", "pve8", token(cluster, port, "pve8"), folder=there)
    async with store_of(cluster, Role.NODE, there / "pki") as store:
        await store.put(f"{ROOT}agents/pve8/self", b"{}")
        cluster.ok("ca", "revoke", "pve8")
        with pytest.raises((PermissionDenied, OutcomeUnknown)):
            await store.put(f"{ROOT}agents/pve8/self", b"{}")
        with pytest.raises(StoreError):
            await store.get(KEYS.meta)
    done = cluster.run("renew", "--force", folder=there)
    assert done.returncode == 1
    assert "is revoked" in done.stderr
    async with store_of(cluster, Role.NODE) as store:
        published = await store.get(KEYS.revoked)
    assert published is not None
    assert published.value == AuthorityFiles(cluster.folder / "ca").revocation_list
    rows = json.loads(cluster.ok("ca", "list", "-o", "json"))
    assert {row["state"] for row in rows if row["name"] == "pve8"} == {"revoked"}
    again = tmp_path / "again"
    cluster.ok("join", "pve8", token(cluster, port, "pve8"), folder=again)
    async with store_of(cluster, Role.NODE, again / "pki") as store:
        await store.put(f"{ROOT}agents/pve8/self", b"{}")


def test_a_machine_without_the_authority_says_where_it_is(cluster: SecuredCluster, tmp_path: Path) -> None:
    for command in (["ca", "issue", "x"], ["ca", "list"], ["ca", "revoke", "x"], ["ca", "token", "x", "--at", "a"]):
        done = cluster.run(*command, folder=tmp_path / "empty")
        assert (done.returncode, "where holdfast init ran" in done.stderr) == (1, True), done


# --- the doctor


async def forget(cluster: SecuredCluster) -> None:
    """What other tests have left: a leader, and nodes."""
    async with store_of(cluster, Role.ADMIN) as store:
        for item in (await store.list(ROOT)).items:
            if item.key == KEYS.leader or item.key.startswith(KEYS.desired_prefix):
                await store.delete(item.key)


def findings(cluster: SecuredCluster) -> dict[str, dict[str, str]]:
    done = cluster.run("doctor", "-o", "json")
    assert done.returncode == 1, done
    return {finding["reason"]: finding for finding in json.loads(done.stdout)}


async def test_the_doctor_finds_what_is_wrong_with_a_real_etcd_and_says_what_mends_it(cluster: SecuredCluster) -> None:
    await forget(cluster)
    async with store_of(cluster, Role.OPERATOR) as store:
        await store.put(KEYS.desired("nodes", "pve7"), b'{"address": "127.0.0.1", "api_port": 1}')
        before = findings(cluster)
        assert {"FewMembers", "NoCoordinator", "AgentDown"} <= set(before)
        assert before["AgentDown"]["subject"] == "pve7"
        assert all(finding["mend"] for finding in before.values())
        assert not {"NoTls", "NoMetrics", "MemberDown", "WrongRights", "AuthorityExpires"} & set(before)
        await store.delete(KEYS.desired("nodes", "pve7"))
    pki = cluster.folder / "pki"
    argv = ["etcdctl", "--endpoints", f"https://{cluster.endpoint}", "--cacert", str(pki / "ca.crt")]
    argv += ["--cert", str(pki / "admin.crt"), "--key", str(pki / "admin.key")]
    loosened = [*argv, "role", "grant-permission", "node/pve1", "readwrite", f"{ROOT}owners/", "--prefix"]
    subprocess.run(loosened, check=True, capture_output=True, timeout=20)  # noqa: ASYNC221
    wrong = findings(cluster)
    assert wrong["WrongRights"]["subject"] == "role node/pve1"
    assert "AgentDown" not in wrong
    assert init(cluster).returncode == 0
    assert "WrongRights" not in findings(cluster)
    async with store_of(cluster, Role.NODE) as store:
        with pytest.raises(PermissionDenied):
            await store.put(f"{ROOT}owners/101", b"{}")


@contextlib.contextmanager
def daemon(program: str, settings: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    argv = [COMMAND.with_name(program), "--config", str(settings)]
    with (settings.parent / f"{program}.log").open("wb") as log:
        process = subprocess.Popen(argv, env=os.environ | environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(15) == 0, (settings.parent / f"{program}.log").read_text()[-3000:]
        finally:
            process.kill()
            process.wait()


async def test_agents_and_a_coordinator_work_with_their_own_identities_and_the_doctor_is_content(
    cluster: SecuredCluster, port: int, tmp_path: Path
) -> None:
    await forget(cluster)
    there = tmp_path / "alpha"
    cluster.ok("join", "alpha", token(cluster, port, "alpha"), folder=there)
    nodes: dict[str, tuple[Path, int, int]] = {
        name: (folder, free_port(), free_port()) for name, folder in (("pve1", cluster.folder), ("alpha", there))
    }
    with contextlib.ExitStack() as stack:
        async with store_of(cluster, Role.OPERATOR) as store:
            for name, (folder, transfers, api) in nodes.items():
                record = {"address": "127.0.0.1", "transfer_port": transfers, "api_port": api}
                await store.put(KEYS.desired("nodes", name), json.dumps(record).encode())
                environment = {"HOLDFAST_TRANSFER_PORT": str(transfers), "HOLDFAST_API_PORT": str(api)}
                environment |= {"HOLDFAST_LISTEN": "127.0.0.1", "HOLDFAST_SOCKET": str(folder / "agent.sock")}
                environment |= {"HOLDFAST_STATE": str(folder / "state")}
                (folder / "state").mkdir()
                stack.enter_context(daemon("holdfast-agent", folder / "agent.yaml", environment))
            state = {"HOLDFAST_STATE": str(tmp_path / "coordinator")}
            stack.enter_context(daemon("holdfast-coordinator", cluster.folder / "coordinator.yaml", state))
            async with asyncio.timeout(40):
                while not {KEYS.agent(name) for name in nodes} <= {i.key for i in (await store.list(ROOT)).items}:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        found = findings(cluster)
        assert set(found) <= {"FewMembers", "OldEtcd", "SlowDisk"}, found
    async with store_of(cluster, Role.OPERATOR) as store:
        for name in nodes:
            await store.delete(KEYS.desired("nodes", name))
