"""Three random faults of the soak, so that it cannot rot (faults.py); and its checkers turn red where they should."""

import random
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from holdfast.agent.storage.rbd import anchor
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph import replica
from integration.ceph.faults import stage
from integration.ceph.site import Hand, Site, Where, by_hand, running
from lab.faults import covering
from lab.mixture import MixtureFound


@pytest.mark.timeout(600, func_only=True)
def test_three_random_faults_leave_no_mixed_point_no_full_resend_and_nothing_over(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    with stage(tmp_path, seed, rpo=8) as faults:
        faults.longest = 4.0
        for kind in covering(seed, 3, list(faults.kinds)):
            print(f"seed {seed}: {faults.one(kind)}")
        faults.finish()


def _patch(hand: Hand, site: Site) -> None:
    """Record the newest point again with the oldest snapshot of the disk that is written first."""
    newest = replica.points(hand)[-1]
    records = {k: orjson.loads(v) for k, v in replica.marks(hand).items() if k.startswith("point.")}
    oldest = records[min(records, key=lambda key: records[key]["sequence"])]
    patched = records[f"point.{newest.id[0]}-{newest.id[1]}"]
    patched["members"] = [*oldest["members"][:1], *patched["members"][1:]]
    patched["consistency"] = "paused"
    value = orjson.dumps(patched).decode()
    anchor.change(Pool(hand.connection, hand.io), 101, "beta", 1, {f"point.{newest.id[0]}-{newest.id[1]}": value})


@pytest.mark.timeout(180, func_only=True)
async def test_a_point_of_members_of_two_points_is_found(site: Site, store: EtcdStore) -> None:
    await site.define(store, keep=3)
    order = list(site.disks)
    with by_hand(site.home) as home, by_hand(site.away) as away:
        async with running(site):
            for counter in (1, 2):
                for image in site.disks.values():
                    home.write(image, counter.to_bytes(8, "big"))
                await site.progress()
        assert replica.check_points(away, order) == (2, 0)
        _patch(away, site)
        with pytest.raises(MixtureFound, match=r"\[1, 2, 2\]"):
            replica.check_points(away, order)


def test_what_is_left_over_is_found(place: Callable[[str], Where]) -> None:
    where = place("away")
    images = ["vm-101-disk-0", "vm-101-disk-1"]
    with by_hand(where) as hand:
        pool = Pool(hand.connection, hand.io)
        for image in [*images, "holdfast.aside.101-e1-1-vm-101-disk-0", "gone"]:
            Site.rbd(where, "create", "--size", "8M", "--image", image)
        assert replica.left_over(hand, images)[:2] == ["image gone", "image holdfast.aside.101-e1-1-vm-101-disk-0"]
        Site.rbd(where, "rm", "--no-progress", "--image", "holdfast.aside.101-e1-1-vm-101-disk-0")
        Site.rbd(where, "trash", "mv", "--image", "gone")
        Site.rbd(where, "snap", "create", "--no-progress", "--image", images[0], "--snap", "holdfast-1-1")
        Site.rbd(where, "image-meta", "set", "--image", images[1], "holdfast.snap.holdfast-1-2", "7 0")
        anchor.make(pool, 101, "beta")
        anchor.change(pool, 101, "beta", 1, {"taking.holdfast-1-3": images[0], "definition.abc": "text"})
        assert replica.left_over(hand, images) == [
            "gone in the trash",
            "vm-101-disk-0@holdfast-1-1 without a record",
            "vm-101-disk-1: a stream of holdfast-1-2 that was cut",
            "mark taking.holdfast-1-3",
            "mark definition.abc",
        ]
