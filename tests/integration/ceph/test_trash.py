"""What Holdfast removes goes to Ceph's trash; of what is there, only its own goes when its time is over."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast.agent.storage.rbd import binding, names, trash
from holdfast.agent.storage.volumes import NodeVolumes
from integration.ceph.cluster import CephCluster
from integration.ceph.home import IMAGES, volumes_on
from integration.ceph.site import MIB, Hand, Where, by_hand
from integration.ceph.test_faults import set_quota

pytestmark = pytest.mark.timeout(120, func_only=True)


def cut_first_stream(hand: Hand, image: str, node: str = "alpha") -> None:
    """What one leaves: a replica's marks, part of the data, no snapshot."""
    with binding.rbd().Image(hand.io, image) as opened:
        opened.metadata_set(names.REPLICA, f"101/scsi0 {node}")
        opened.metadata_set(f"{names.SNAP}holdfast-1-1", "4711 0")
        opened.write(os.urandom(MIB), 0)


def in_trash(hand: Hand) -> list[str]:
    return [entry["name"] for entry in binding.rbd().RBD().trash_list(hand.io)]


async def purged(volumes: NodeVolumes, hand: Hand, *left: str) -> None:
    """Wait until a look has left only these."""
    async with asyncio.timeout(20):
        while in_trash(hand) != [*left]:
            await volumes.scan()
            await asyncio.sleep(0.1)


async def test_a_first_stream_that_is_given_up_can_be_restored_until_its_time_is_over(
    place: Callable[[str], Where], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place("home")
    monkeypatch.setattr(trash, "PURGE_EVERY", 0.0)
    with by_hand(where) as hand:
        async with volumes_on(where, tmp_path, grace=3) as volumes:
            cut_first_stream(hand, IMAGES[0])
            data = hand.read(IMAGES[0])
            await volumes.abort_partial(f"rbd:home/{IMAGES[0]}")
            assert in_trash(hand) == [IMAGES[0]]
            await volumes.scan()
            [entry] = list(binding.rbd().RBD().trash_list(hand.io))
            binding.rbd().RBD().trash_restore(hand.io, entry["id"], "restored")
            assert hand.read("restored") == data
            cut_first_stream(hand, IMAGES[1])
            await volumes.abort_partial(f"rbd:home/{IMAGES[1]}")
            assert in_trash(hand) == [IMAGES[1]]
            await purged(volumes, hand)
            assert hand.read("restored") == data


async def test_what_others_have_in_the_trash_is_never_purged(
    place: Callable[[str], Where], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place("home")
    monkeypatch.setattr(trash, "PURGE_EVERY", 0.0)
    with by_hand(where) as hand:
        async with volumes_on(where, tmp_path, grace=0) as volumes:
            with binding.rbd().Image(hand.io, IMAGES[1]) as image:
                image.metadata_set(names.TRASHED, "beta")
            for image_name in IMAGES[1:]:  # another node's, and a person's
                binding.rbd().RBD().trash_move(hand.io, image_name, 0)
            cut_first_stream(hand, IMAGES[0])
            await volumes.abort_partial(f"rbd:home/{IMAGES[0]}")
            await purged(volumes, hand, *sorted(IMAGES[1:], key=in_trash(hand).index))


async def test_from_a_full_pool_images_go_to_the_trash(ceph: CephCluster, tmp_path: Path) -> None:
    ceph.make_pool("brim")
    where = (ceph, "brim", "")
    with by_hand(where) as hand:
        async with volumes_on(where, tmp_path, answers_in=5) as volumes:
            cut_first_stream(hand, IMAGES[0])
            set_quota(ceph, "brim", MIB // 2)
            try:
                await volumes.abort_partial(f"rbd:home/{IMAGES[0]}")
            finally:
                set_quota(ceph, "brim", 0)
            assert in_trash(hand) == [IMAGES[0]]
