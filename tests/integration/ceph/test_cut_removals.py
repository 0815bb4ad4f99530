"""A removal of a snapshot that was cut short is ended by the next one of that image."""

import struct
from collections.abc import Callable

import pytest
from holdfast.agent.storage.rbd import binding, points
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.images import guids, opened
from holdfast.coordinator.planning.leftovers import Doomed
from integration.ceph.site import Hand, Site, Where, by_hand

pytestmark = pytest.mark.timeout(120, func_only=True)

IMAGE = "vm-101-disk-0"


def begin_removal(hand: Hand, snapshot: str) -> None:
    """The first of librbd's steps: give it another name, in the trash of the image."""
    with opened(Pool(hand.connection, hand.io), IMAGE) as image:
        number = next(s["id"] for s in image.list_snaps() if s["name"] == snapshot)
        hand.io.execute(f"rbd_header.{image.id()}", "rbd", "snapshot_trash_add", struct.pack("<Q", number))


def remove(hand: Hand, snapshot: str) -> None:
    pool = Pool(hand.connection, hand.io)
    with opened(pool, IMAGE) as image:
        guid = guids(pool, image)[snapshot]
    points.destroy(pool, [Doomed(f"rbd:home/{IMAGE}@{snapshot}", guid)])


@pytest.fixture
def where(place: Callable[[str], Where]) -> Where:
    made = place("home")
    Site.rbd(made, "create", "--size", "8M", "--image", IMAGE)
    for name in ("holdfast-1-1", "by-hand", "holdfast-1-2"):
        Site.rbd(made, "snap", "create", "--no-progress", "--image", IMAGE, "--snap", name)
    return made


def test_it_is_ended_with_the_next_snapshot_and_those_of_others_are_left_alone(where: Where) -> None:
    with by_hand(where) as hand:
        begin_removal(hand, "holdfast-1-1")
        begin_removal(hand, "by-hand")
        assert len(hand.snapshots(IMAGE)) == 3
        assert not {"holdfast-1-1", "by-hand"} & {*hand.snapshots(IMAGE)}
        remove(hand, "holdfast-1-2")
        (left,) = hand.snapshots(IMAGE)
        with opened(Pool(hand.connection, hand.io), IMAGE) as image:
            assert [s["trash"]["original_name"] for s in image.list_snaps()] == ["by-hand"]
        assert left != "by-hand"


def test_what_a_clone_needs_stays_until_that_has_gone(where: Where) -> None:
    rbd = binding.rbd()
    with by_hand(where) as hand:
        hand.connection.conf_set("rbd_default_clone_format", "2")
        rbd.RBD().clone(hand.io, IMAGE, "holdfast-1-1", hand.io, "fetch")
        begin_removal(hand, "holdfast-1-1")
        remove(hand, "holdfast-1-2")
        assert len(hand.snapshots(IMAGE)) == 2
        rbd.RBD().remove(hand.io, "fetch")
        assert hand.snapshots(IMAGE) == ["by-hand"]
