"""A guest writes one counter to its disks A, B, C in turn: a point of one instant shows A >= B >= C >= A - 1."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.agent.ports import Refused
from holdfast.coordinator.model.point import Consistency
from integration.ceph.home import IMAGES, order, volumes_on
from integration.ceph.site import Guest, Hand, Where, by_hand, writing

pytestmark = pytest.mark.timeout(180, func_only=True)


def mixed(hand: Hand, snapshot: str) -> bool:
    a, b, c = (hand.counter(image, snapshot) for image in IMAGES)
    return not a >= b >= c >= a - 1


@contextlib.contextmanager
def counting(where: Where, pace: float) -> Iterator[Guest]:
    with writing(where, IMAGES, pace) as guest:
        deadline = time.monotonic() + 20
        while len(guest.lines()) < 20:
            assert time.monotonic() < deadline, guest.lines()
            time.sleep(0.05)
        yield guest


async def test_a_point_of_a_paused_guest_is_never_mixed(place: Callable[[str], Where], tmp_path: Path) -> None:
    where = place("home")
    async with volumes_on(where, tmp_path) as volumes:
        with counting(where, 0.0) as guest, by_hand(where) as hand:
            paused = []
            for sequence in range(1, 21):
                guest.pause()
                began = time.monotonic()
                point = await volumes.take(order(sequence, Consistency.PAUSED))
                paused.append(time.monotonic() - began)
                guest.resume()
                assert point.consistency is Consistency.PAUSED
                assert not mixed(hand, point.id.snapshot)
            print(f"paused for {sorted(paused)[10]:.3f} s in the median, {max(paused):.3f} s at most")
            errors = [line for line in guest.lines() if "rror" in line]
            assert errors == []


async def test_a_point_that_says_atomic_is_never_mixed_and_a_busy_guests_says_none(
    place: Callable[[str], Where], tmp_path: Path
) -> None:
    where = place("home")
    async with volumes_on(where, tmp_path) as volumes:
        with by_hand(where) as hand:
            said: dict[Consistency, int] = dict.fromkeys(Consistency, 0)
            mixtures = 0
            for first, pace in ((1, 0.0), (11, 0.7)):
                with counting(where, pace):
                    for sequence in range(first, first + 10):
                        point = await volumes.take(order(sequence, Consistency.ATOMIC))
                        said[point.consistency] += 1
                        if point.consistency is Consistency.ATOMIC:
                            assert not mixed(hand, point.id.snapshot)
                        else:
                            mixtures += mixed(hand, point.id.snapshot)
            print(f"{said}, of those that say none {mixtures} mixed")
            assert said[Consistency.NONE] >= 5
            assert said[Consistency.ATOMIC] >= 1


async def test_the_check_turns_red_where_snapshots_are_taken_one_after_the_other(place: Callable[[str], Where]) -> None:
    where = place("home")
    cluster, pool, namespace = where
    for image in IMAGES:
        cluster.rbd("create", "--size", "64M", "--pool", pool, "--namespace", namespace, "--image", image)
    with counting(where, 0.0), by_hand(where) as hand:
        for image in IMAGES:
            await asyncio.sleep(0.3)
            cluster.rbd("snap", "create", "--pool", pool, "--namespace", namespace, "--image", image, "--snap", "one")
        assert mixed(hand, "one")


async def test_what_a_crash_left_of_a_point_goes_with_the_next_and_only_under_the_owners_epoch(
    place: Callable[[str], Where], tmp_path: Path
) -> None:
    where = place("home")
    async with volumes_on(where, tmp_path) as volumes:
        crashed = order(1, Consistency.ATOMIC)
        await volumes.raise_epoch("rbd:home", 101, 1)
        cut_short = asyncio.create_task(volumes.take(crashed))
        with by_hand(where) as hand:
            while not any(hand.snapshots(image) for image in IMAGES):  # noqa: ASYNC110 - librbd tells nobody
                await asyncio.sleep(0)
            cut_short.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cut_short
            await asyncio.sleep(1)  # its threads end by themselves
            assert any("holdfast-1-1" in hand.snapshots(image) for image in IMAGES)
            stale = dataclasses.replace(order(2, Consistency.ATOMIC), epoch=0)
            with pytest.raises(Refused, match="epoch 1"):
                await volumes.take(stale)
            assert any("holdfast-1-1" in hand.snapshots(image) for image in IMAGES)
            point = await volumes.take(order(2, Consistency.ATOMIC))
            assert point.consistency is Consistency.ATOMIC
            assert [hand.snapshots(image) for image in IMAGES] == [["holdfast-1-2"]] * 3
