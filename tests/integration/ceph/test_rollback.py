"""A guest goes back to a point on a real Ceph: its images as they were, what it was before still a point."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast.coordinator.cli.asking import ask_for
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.rollback import Move, back_mark, moves
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.site import MIB, Hand, Site, by_hand, running, writing
from integration.watcher import until

pytestmark = pytest.mark.timeout(120, func_only=True)


async def roll_back(site: Site, store: EtcdStore, point: RecoveryPoint) -> str:
    """As the command does, once it has been confirmed."""
    connection: Any = SimpleNamespace(keyspace=site.keys)
    return await ask_for(store, connection, 60, "rollback", 101, "alpha", at=str(point.id))


def write(site: Site, hand: Hand, text: bytes, *at: int) -> None:
    """Into all images, at these MiB."""
    for image in site.disks.values():
        for each in at:
            hand.write(image, text, each * MIB)


async def newest(site: Site, node: str = "alpha") -> RecoveryPoint:
    return (await site.scan(node)).complete_points(101)[-1]


def content(site: Site, hand: Hand, point: RecoveryPoint | None = None) -> list[bytes]:
    """Of the heads, or of a point."""
    if point is None:
        return [hand.read(image) for image in site.disks.values()]
    return [hand.read(m.dataset.partition("/")[2], m.snapshot) for m in sorted(point.members, key=lambda m: m.disk)]


async def test_a_guest_goes_back_its_later_points_stay_and_its_replica_follows(site: Site, store: EtcdStore) -> None:
    await site.define(store)
    with by_hand(site.home) as hand, by_hand(site.away) as away:
        write(site, hand, b"first", 0, 9, 17)
        async with running(site):
            await site.progress()
            first, was = await newest(site), content(site, hand)
            write(site, hand, b"later", 0, 9, 30)
            await site.progress()
            write(site, hand, b"never in a point", 9, 40)
            lost = content(site, hand)

            said = await roll_back(site, store, first)
            assert content(site, hand) == was
            before = next(p for p in (await site.scan("alpha")).complete_points(101) if p.request)
            assert f"What it was before is point {before.id}, which stays" in said
            assert content(site, hand, before) == lost
            assert first.id in {p.id for p in (await site.scan("alpha")).complete_points(101)}

            sent = site.wires["alpha"].sent()
            write(site, hand, b"after", 50)
            while content(site, away, last := await newest(site, "beta")) != content(site, hand):
                await site.progress()  # a point of before that write may have been under way
            assert last.id > before.id, "the replica went back as well"
            assert site.wires["alpha"].sent() - sent < 3 * 64 * MIB / 2, "only what differs was sent"
            assert site.reasons() == {}


async def test_what_a_client_has_open_is_not_touched_and_its_name_is_told(site: Site, store: EtcdStore) -> None:
    await site.define(store, rpo=3600)
    async with running(site):
        await site.progress()
        first = await newest(site)
        with writing(site.home, list(site.disks.values())) as guest:
            await site.until(lambda: guest.lines())
            with pytest.raises(Failed, match=r"in use by 127.*Shut the guest down first"):
                await roll_back(site, store, first)
            scan = await site.scan("alpha")
            assert not scan.asides(101)
        with by_hand(site.home) as hand:
            assert all(hand.counter(image) > 0 for image in site.disks.values()), "what it wrote is there"


@pytest.mark.parametrize("reached", [1, 4, 6])
async def test_one_that_was_cut_short_is_ended_by_the_agents_next_life(
    site: Site, store: EtcdStore, reached: int
) -> None:
    await site.define(store, rpo=3600)
    with by_hand(site.home) as hand:
        write(site, hand, b"first", 0, 9)
        async with running(site):
            await site.progress()
            first, was = await newest(site), content(site, hand)
            write(site, hand, b"later", 9, 30)
            volumes = site.volumes["alpha"]
            wanted = moves(first, 101, 1, "rollback-101-cut")
            steps = [lambda m=m: volumes.put_aside(m.dataset, m.aside, "volume") for m in wanted]
            steps += [lambda m=m: volumes.roll_back(m.aside, m.snapshot, m.guid, back_mark(m)) for m in wanted]
            steps += [lambda m=m: volumes.put_back(m.aside, m.dataset) for m in wanted]
            for step in steps[:reached]:
                await step()
            await site.stop("alpha")
            asked = Request(action="rollback", vmid=101, node="alpha", at=str(first.id), asked=datetime.now(UTC))
            await site.put(store, "requests", "rollback-101-cut", asked.model_dump(mode="json", exclude_none=True))
            site.start("alpha")
            await until(lambda: _is_done(site, store), 60)
            assert content(site, hand) == was
            assert not (await site.scan("alpha")).asides(101)


async def _is_done(site: Site, store: EtcdStore) -> bool:
    item = await store.get(site.keys.request_report("alpha", "rollback-101-cut"))
    return item is not None and b'"done"' in item.value


async def test_a_snapshot_that_is_another_now_is_not_rolled_back_to(site: Site, store: EtcdStore) -> None:
    await site.define(store, rpo=3600)
    async with running(site):
        await site.progress()
        move: Move = moves(await newest(site), 101, 1, "rollback-101-other")[0]
        volumes = site.volumes["alpha"]
        await volumes.put_aside(move.dataset, move.aside, "volume")
        with pytest.raises(Exception, match="is not the snapshot of the point any more"):
            await volumes.roll_back(move.aside, move.snapshot, move.guid + 1, back_mark(move))
        await volumes.put_back(move.aside, move.dataset)
