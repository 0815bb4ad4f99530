"""How long a look waits for a storage of Ceph that has fallen silent: guests on other storages wait with it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.rbd import volumes
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import Cluster, Pool
from holdfast.agent.storage.rbd.volumes import RbdVolumes

ACCESS = Access("ceph-a", "rbd", "", None, "admin", (), None)


class _Answers(Cluster):
    """A connection whose calls take as long as they are told to, or for ever."""

    def __init__(self) -> None:
        super().__init__(ACCESS)
        self.after: float | None = 0.0
        """Seconds; None: never."""
        self.why: str | None = None
        """What they fail with."""

    def start(self, what: str, work: Callable[[Pool], Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self.why is not None:
            loop.call_later(self.after or 0.0, answer.set_exception, VolumesError(self.why))
        elif self.after is not None:
            loop.call_later(self.after, lambda: answer.done() or answer.set_result(({}, {})))
        return answer


class _Watched(RbdVolumes):
    def __init__(self, cluster: Cluster) -> None:
        super().__init__("alpha", lambda: datetime.now(UTC), lambda: {"ceph-a": ACCESS})
        self._cluster_to_be = cluster

    def _connect(self, access: Access) -> Cluster:
        return self._cluster_to_be


@pytest.fixture
def ceph() -> _Answers:
    return _Answers()


@pytest.fixture
def node(ceph: _Answers, monkeypatch: pytest.MonkeyPatch) -> RbdVolumes:
    monkeypatch.setattr(volumes, "PATIENT", 0.2)
    monkeypatch.setattr(volumes, "IMPATIENT", 0.02)
    return _Watched(ceph)


async def test_one_that_falls_silent_is_waited_for_seconds_not_for_a_calls_limit(
    ceph: _Answers, node: RbdVolumes
) -> None:
    assert not (await node.scan()).failed
    ceph.after = None
    async with asyncio.timeout(2):
        scan = await node.scan()
    assert "was not seen" in scan.failed["rbd:ceph-a"]


async def test_one_whose_looks_take_long_is_waited_for_longer(
    ceph: _Answers, node: RbdVolumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceph.after = 1.2
    assert not (await node.scan()).failed, "the first look has the limit of a call"
    monkeypatch.setattr(volumes, "PATIENT", 1.0)
    ceph.after = 1.15
    assert not (await node.scan()).failed, "more than the least, less than the last took"


async def test_why_it_was_silent_is_told_once_the_look_has_ended(ceph: _Answers, node: RbdVolumes) -> None:
    await node.scan()
    ceph.after, ceph.why = 0.4, "is an OSD down?"
    assert "was not seen" in (await node.scan()).failed["rbd:ceph-a"]
    await asyncio.sleep(0.4)
    assert (await node.scan()).failed["rbd:ceph-a"] == "is an OSD down?"


async def test_one_that_answers_again_is_seen_at_once(ceph: _Answers, node: RbdVolumes) -> None:
    await node.scan()
    ceph.after = 0.4
    assert (await node.scan()).failed
    ceph.after = 0.0
    await asyncio.sleep(0.4)
    assert not (await node.scan()).failed
