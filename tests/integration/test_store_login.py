"""Whom etcd takes the client for: tokens that expire or are forgotten, passwords, common names, denials."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.login import Login
from holdfast.coordinator.store.port import PermissionDenied
from integration.etcd_cluster import Authority, EtcdCluster, running
from integration.watcher import watching

TOKEN_TTL = 1  # seconds; etcd counts whole ones


@pytest.fixture
def guarded(installed: None, tmp_path: Path) -> Iterator[EtcdCluster]:
    """One member whose tokens expire at once; users root and n1, and n1 may only use /n1/."""
    options = ["--auth-token-ttl", str(TOKEN_TTL), "--bcrypt-cost", "4"]
    with running(EtcdCluster(tmp_path, options=options)) as cluster:
        cluster.enable_auth(n1="/n1/")
        yield cluster


@pytest.fixture
def login(tmp_path: Path) -> Login:
    (tmp_path / "password").write_text("secret\n")
    return Login("n1", tmp_path / "password")


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each login that was made."""
    made: list[str] = []
    read = Login.password

    def noted(self: Login) -> str:
        made.append(self.user)
        return read(self)

    monkeypatch.setattr(Login, "password", noted)
    return made


async def test_an_expired_token_is_replaced_and_no_request_fails(
    guarded: EtcdCluster, login: Login, logins: list[str]
) -> None:
    async with EtcdStore(guarded.endpoints, login=login) as store:
        await store.put("/n1/a", b"1")
        await asyncio.sleep(TOKEN_TTL + 2.5)  # simple tokens are looked through once a second
        assert await store.put("/n1/a", b"2")
        await asyncio.sleep(TOKEN_TTL + 2.5)
        found = await store.get("/n1/a")
        assert found is not None
        assert (found.value, found.version) == (b"2", 2)
        assert len(logins) == 3


async def test_many_requests_at_once_after_a_restart_of_etcd_log_in_once(
    guarded: EtcdCluster, login: Login, logins: list[str]
) -> None:
    async with EtcdStore(guarded.endpoints, login=login) as store:
        async with watching(store, "/n1/", await store.put("/n1/a", b"1")) as watcher:
            await watcher.until(1)
            await asyncio.sleep(0.5)  # a login that etcd has not written to its database is repeated from its log
            guarded.kill9(0)
            guarded.start_all()
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(store.put(f"/n1/{number:02}", b"2"))
            await watcher.until(21)
            assert sorted(watcher.values) == [b"1"] + [b"2"] * 20
        assert 2 <= len(logins) <= 4


async def test_a_watch_that_must_reconnect_with_an_expired_token_goes_on(
    guarded: EtcdCluster, login: Login, logins: list[str]
) -> None:
    async with EtcdStore(guarded.endpoints, login=login) as store:
        start = await store.put("/n1/a", b"1")
        await asyncio.sleep(TOKEN_TTL + 2.5)
        async with watching(store, "/n1/", start) as watcher:
            assert await watcher.until(1) == [b"1"]
    assert len(logins) == 2


async def test_what_a_user_may_not_do_is_denied_and_names_the_way_to_look(guarded: EtcdCluster, login: Login) -> None:
    async with EtcdStore(guarded.endpoints, login=login) as store:
        for attempt in (store.get("/n2/a"), store.put("/n2/a", b""), store.list("/")):
            with pytest.raises(PermissionDenied, match="etcdctl user get"):
                await attempt
        began = time.monotonic()
        async with asyncio.timeout(5):
            with pytest.raises(PermissionDenied, match="watch /n2/"):
                await anext(store.watch("/n2/", 1))
        assert time.monotonic() - began < 3
        assert await store.get("/n1/a") is None


async def test_without_a_user_everything_is_denied(guarded: EtcdCluster) -> None:
    async with EtcdStore(guarded.endpoints) as store:
        for attempt in (store.get("/n1/a"), store.put("/n1/a", b""), anext(store.watch("/n1/", 1))):
            with pytest.raises(PermissionDenied, match="Check whom etcd takes this for"):
                async with asyncio.timeout(5):
                    await attempt


async def test_a_wrong_password_is_named_with_its_file_and_a_changed_one_is_read_again(
    guarded: EtcdCluster, login: Login
) -> None:
    async with EtcdStore(guarded.endpoints, login=login) as store:
        await store.put("/n1/a", b"1")
        guarded.ctl("user", "delete", "n1")
        guarded.ctl("user", "add", "n1:other")
        guarded.ctl("user", "grant-role", "n1", "n1")
        with pytest.raises(PermissionDenied, match=rf"{login.password_file}.*etcdctl user passwd n1"):
            await store.put("/n1/a", b"2")
        login.password_file.write_text("other\n")
        assert await store.put("/n1/a", b"3")
        login.password_file.unlink()
    async with EtcdStore(guarded.endpoints, login=login) as store:
        with pytest.raises(PermissionDenied, match="cannot be read"):
            await store.get("/n1/a")


async def test_a_user_is_no_harm_where_etcd_asks_for_none_until_it_does(
    own_etcd: EtcdCluster, login: Login, tmp_path: Path
) -> None:
    async with EtcdStore(own_etcd.endpoints, login=login) as store:
        assert await store.put("/n1/a", b"1")
        await asyncio.to_thread(own_etcd.enable_auth, n1="/n1/")
        assert await store.put("/n1/a", b"2")


async def test_the_certificates_common_name_is_the_user(installed: None, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running(EtcdCluster(tmp_path, tls=authority.issue("root"))) as cluster:
        cluster.enable_auth(n1="/n1/")
        async with EtcdStore(cluster.endpoints, authority.issue("n1")) as store:
            assert await store.put("/n1/a", b"1")
            with pytest.raises(PermissionDenied, match="common name"):
                await store.put("/n2/a", b"1")
            # rights that change while requests are under way deny nothing that is allowed
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(asyncio.to_thread(_grant, cluster, f"/x{number}/")) if number < 3 else None
                    group.create_task(store.put("/n1/a", b"%d" % number))
        async with EtcdStore(cluster.endpoints, authority.issue("nobody")) as store:
            with pytest.raises(PermissionDenied):
                await store.get("/n1/a")


def _grant(cluster: EtcdCluster, prefix: str) -> None:
    cluster.ctl("role", "grant-permission", "n1", "--prefix=true", "readwrite", prefix)
