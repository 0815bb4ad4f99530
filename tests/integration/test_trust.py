"""A revocation reaches the agents by a real etcd, and stays over a restart."""

import asyncio
from pathlib import Path

import pytest
from holdfast.agent import trust
from holdfast.agent.host import LinuxHost
from holdfast.agent.trust import Trust
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.client import EtcdStore
from integration.certificates import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


class Following:
    """One agent's trust, fed by a cache."""

    def __init__(self, credentials: Credentials, state: Path, store: EtcdStore, keys: Keyspace) -> None:
        self.credentials = credentials
        self.state = state
        self.cache = Cache(store, keys.root)
        self.trust = Trust(credentials, LinuxHost(state))
        self.cache.subscribe(keys.revoked, self.trust.on_change)

    async def follow(self, revision: int) -> None:
        """Until the keyspace has been read as of this revision, and what is new has been saved."""
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.cache.run()), group.create_task(self.trust.run())]
            await self.cache.changed(revision - 1)
            while not (self.state / trust.REVOKED).exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()


@pytest.fixture
def keys(prefix: str) -> Keyspace:
    return Keyspace(prefix.strip("/"))


async def test_a_revocation_reaches_an_agent_by_etcd_and_stays_over_its_restart(
    certificates: Certificates, store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    stolen, mine = certificates.issue("alpha"), certificates.issue("beta")
    revision = await store.put(keys.revoked, certificates.revocation_list(stolen, number=2))
    await Following(mine, tmp_path / "state", store, keys).follow(revision)
    assert stolen.certificate in mine.revoked
    again = certificates.issue("beta")
    Trust(again, LinuxHost(tmp_path / "state"))
    assert stolen.certificate in again.revoked


async def test_neither_an_older_nor_a_forged_list_in_etcd_takes_a_revocation_back(
    certificates: Certificates, store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    stolen, mine = certificates.issue("alpha"), certificates.issue("beta")
    following = Following(mine, tmp_path / "state", store, keys)
    await following.follow(await store.put(keys.revoked, certificates.revocation_list(stolen, number=2)))
    assert stolen.certificate in mine.revoked
    forger = Certificates(tmp_path / "forger")
    for pem in (certificates.revocation_list(number=1), forger.revocation_list(number=9), b"nonsense"):
        await following.follow(await store.put(keys.revoked, pem))
        assert stolen.certificate in mine.revoked
