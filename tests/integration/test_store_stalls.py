"""Long stalls on three members: nothing is lost, nothing comes twice, and who can go on goes on within seconds."""

import asyncio
import time
from collections.abc import Callable

import pytest
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import OutcomeUnknown, Unavailable
from integration.etcd_cluster import EtcdCluster
from integration.watcher import Watcher, put_surely, watching

FROZEN, LEADERLESS = 25.0, 15.0  # seconds

Note = Callable[[str, float], None]


async def went_on(watcher: Watcher, since: float, count: int, seconds: float) -> float:
    """Seconds from `since` to the watcher's event number `count`."""
    await watcher.until(count, seconds)
    return watcher.heard - since


@pytest.mark.timeout(120)
async def test_a_member_that_is_frozen_for_long_delays_nobody_who_knows_another(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note
) -> None:
    start = await store3.put(prefix + "00", b"0")
    expected = [b"%d" % number for number in range(11)]
    async with (
        EtcdStore(etcd3.endpoints[:1], etcd3.tls, patience=Patience(total=2)) as only,
        EtcdStore(etcd3.endpoints[1:], etcd3.tls) as writer,
        watching(store3, prefix, start) as three,
        watching(only, prefix, start) as one,
    ):
        await three.until(1)
        await one.until(1)
        etcd3.stop(0)
        frozen = time.monotonic()
        await put_surely(writer, prefix + "01", b"1")
        resumed("SIGSTOP of the connected member, three endpoints", await went_on(three, frozen, 2, seconds=8))
        for number in range(2, 11):
            await put_surely(writer, f"{prefix}{number:02}", b"%d" % number)
            await asyncio.sleep(FROZEN / 10)
        assert await three.until(11) == expected
        assert len(one.events) == 1
        with pytest.raises(Unavailable):
            await only.get(prefix)
        await asyncio.sleep(max(0.0, frozen + FROZEN - time.monotonic()))
        etcd3.cont(0)
        thawed = time.monotonic()
        resumed("SIGSTOP of the only endpoint for 25 s, after it goes on", await went_on(one, thawed, 11, seconds=10))
        await asyncio.sleep(0.5)
        assert one.values == three.values == expected


@pytest.mark.timeout(120)
async def test_a_leader_that_is_lost_for_long_is_noticed_and_then_nothing_is_missing(
    etcd3: EtcdCluster, store3: EtcdStore, prefix: str, resumed: Note
) -> None:
    start = await store3.put(prefix + "00", b"0")
    quick = Patience(total=3)
    async with (
        watching(store3, prefix, start) as watcher,
        EtcdStore(etcd3.endpoints[:1], etcd3.tls, patience=quick) as one,
    ):
        await watcher.until(1)
        etcd3.stop(1)
        etcd3.stop(2)
        lost = time.monotonic()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await one.put(prefix + "never-acknowledged", b"x")
        with pytest.raises(Unavailable):
            await one.get(prefix + "00")
        assert not (await one.status())[0].has_leader
        silent = watcher.heard - lost
        assert silent < 8, "signs of life without a leader are none"
        resumed("leader lost: the last sign of life of a watch came after", silent)
        await asyncio.sleep(max(0.0, lost + LEADERLESS - time.monotonic()))
        assert watcher.heard - lost < 8
        etcd3.cont(1)
        etcd3.cont(2)
        back = time.monotonic()
        for number in range(1, 6):
            await put_surely(store3, f"{prefix}{number:02}", b"%d" % number)
        await watcher.until(6)
        resumed("leader lost for 15 s, after there is one again", watcher.heard - back)
        await asyncio.sleep(0.5)
        acknowledged = [value for value in watcher.values if value != b"x"]  # whose outcome was unknown
        assert acknowledged == [b"%d" % number for number in range(6)]
        assert len(watcher.values) - len(acknowledged) <= 1
