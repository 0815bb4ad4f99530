"""Certificates that do not fit are explained, and replaced ones are used without a restart."""

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.coordinator.store import members
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Unavailable
from holdfast.coordinator.store.tls import Tls
from integration.etcd_cluster import Authority, EtcdCluster, running
from integration.watcher import watching

QUICK = Patience(total=0.5)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def secure(installed: None, tmp_path: Path, authority: Authority) -> Iterator[EtcdCluster]:
    """One member with TLS that asks clients for a certificate."""
    with running(EtcdCluster(tmp_path, tls=authority.issue("etcd"))) as cluster:
        yield cluster


async def refusal(endpoints: list[str], tls: Tls) -> str:
    async with EtcdStore(endpoints, tls, patience=QUICK) as store:
        with pytest.raises(Unavailable) as caught:
            await store.get("a")
    return str(caught.value)


async def test_a_member_of_a_foreign_authority_is_not_trusted(secure: EtcdCluster, tmp_path: Path) -> None:
    said = await refusal(secure.endpoints, Authority(tmp_path / "foreign", "foreign").issue("n1"))
    assert "another authority signed it" in said
    assert secure.endpoints[0] in said


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda authority: authority.issue("old", days=-1), r"old\.crt\): bad certificate"),
        (lambda authority: Tls(authority.issue("n1").ca), r"shown \(none\):.*certificate"),
    ],
    ids=["expired", "none"],
)
async def test_a_client_certificate_that_etcd_refuses_is_named(
    secure: EtcdCluster, authority: Authority, make: Callable[[Authority], Tls], expected: str
) -> None:
    said = await refusal(secure.endpoints, make(authority))
    assert "refuses the certificate that it is shown" in said
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    ("issue", "expected"),
    [({"days": -1}, "has expired.*issue a new one"), ({"san": "DNS:elsewhere"}, "issued for another name or address")],
    ids=["expired", "other-name"],
)
async def test_a_members_certificate_that_does_not_fit_is_explained(
    installed: None, tmp_path: Path, authority: Authority, issue: dict[str, str | int], expected: str
) -> None:
    cluster = EtcdCluster(tmp_path, tls=authority.issue("etcd", **issue))
    try:
        cluster.start(0)
        said = ""
        async with asyncio.timeout(20):
            while "certificate" not in said:
                said = await refusal(cluster.endpoints, authority.issue("n1"))
        assert re.search(expected, said), said
    finally:
        cluster.close()


async def test_replaced_certificates_are_used_without_a_restart_and_no_event_is_lost(
    secure: EtcdCluster, authority: Authority, tmp_path: Path
) -> None:
    tls, renewed = authority.issue("before"), authority.issue("after")
    await asyncio.to_thread(secure.enable_auth, after="/after/", before="/before/")
    root = authority.issue("root")
    async with EtcdStore(secure.endpoints, root) as other, EtcdStore(secure.endpoints, tls) as store:
        start = await store.put("/before/a", b"1")
        async with watching(other, "/", start) as all_of_it:
            replace(tls.key, renewed.key)  # half of it: the key does not fit the certificate
            await asyncio.sleep(1.2)
            assert await store.put("/before/a", b"2")
            replace(tls.certificate, renewed.certificate)
            await asyncio.sleep(1.2)
            assert await store.put("/after/a", b"3"), "etcd now takes it for the other user"
            assert await all_of_it.until(3) == [b"1", b"2", b"3"]


async def test_a_watch_moves_to_the_renewed_certificate(
    secure: EtcdCluster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_GRACE", 1.0)
    tls, renewed = authority.issue("n1"), authority.issue("n1", file="renewed")
    async with EtcdStore(secure.endpoints, tls) as store, watching(store, "/a/", await store.put("/a/0", b"0")) as seen:
        await seen.until(1)
        replace(tls.key, renewed.key)
        replace(tls.certificate, renewed.certificate)
        for number in range(1, 40):  # until after the connections of before are closed
            await store.put(f"/a/{number}", b"%d" % number)
            await asyncio.sleep(0.1)
        assert await seen.until(40) == [b"%d" % n for n in range(40)]


def replace(path: Path | None, by: Path | None) -> None:
    assert path is not None
    assert by is not None
    shutil.copy(by, path)
