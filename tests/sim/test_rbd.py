"""The agent's RBD back end on the model of Ceph, killed and failing at every single operation of what it does."""

import contextlib
import itertools
import random
from collections.abc import Callable

import pytest
from holdfast.agent.ports import ReceiveOrder, Refused
from holdfast.agent.storage.rbd import anchor, incoming, names, points
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.points import look
from holdfast.coordinator.planning.leftovers import Doomed

from .ceph import Ceph, CephPool, NodeStorage, RbdImage
from .datasets import Image, Stream
from .librados import Call, CephError, Dead
from .librbd import ModelPool
from .rbd import Import

REPLICA = "rbd:away/vm-101-disk-0"
MOST = 40
"""No piece of work here has as many operations."""


class _Away:
    """A pool with node beta's replica of a disk."""

    def __init__(self) -> None:
        self.ceph = Ceph(random.Random(1))
        self.pool: CephPool = self.ceph.add_pool("away")
        NodeStorage("beta", self.ceph.rng, self.ceph)

    def open(self, **grief: int) -> Pool:
        """For a piece of work that comes to grief at one of its operations."""
        call = Call(self.ceph.rng, self.ceph, "beta")
        for kind, number in grief.items():
            setattr(call, kind, number)
        return ModelPool(self.pool, call)  # type: ignore[return-value]

    @property
    def image(self) -> RbdImage:
        return self.pool.images["vm-101-disk-0"]

    def receive(self, sequence: int, *, cut: bool = False, **grief: int) -> None:
        """The stream of a point; its base is whatever the replica has."""
        newest = self.image.newest if "vm-101-disk-0" in self.pool.images else None
        name, base = f"holdfast-1-{sequence}", newest.guid if newest else 0
        order = ReceiveOrder(REPLICA, "101/scsi0", "volume", snapshot=name, guid=sequence, base=base)
        incoming.begin(self.open(**grief), order, "beta", None)
        stream = Stream(name, sequence, base, Image(sequence, sequence << 20, 1 << 30), 1 << 20)
        moving = Import(self.pool, self.image, stream, newest.name if newest else None)
        moving.arrived(1 << 19)
        if cut:
            moving.broken()
        else:
            moving.ended()

    def shows(self) -> list[int]:
        """What the replica's snapshots show; -1 is a mixture."""
        return [snap.image.counter for snap in self.image.snaps.values()]


@pytest.mark.parametrize("received", [0, 1])
def test_a_replica_whose_cut_stream_was_given_up_takes_the_next(received: int) -> None:
    away = _Away()
    for sequence in range(1, received + 1):
        away.receive(sequence)
    away.receive(7, cut=True)
    incoming.abort(away.open(), REPLICA, "beta", 60.0)
    away.receive(8)
    assert away.shows() == [*range(1, received + 1), 8]


_GRIEF = [(kind, number) for kind in ("dies_at", "fails_at", "silent_from") for number in range(MOST)]


def _meets_grief(work: Callable[[], None]) -> None:
    with contextlib.suppress(Dead, CephError, Refused):
        work()


@pytest.mark.parametrize(("kind", "number"), _GRIEF)
@pytest.mark.parametrize("received", [0, 1])
def test_wherever_giving_up_a_cut_stream_fails_the_replica_takes_the_next(
    received: int, kind: str, number: int
) -> None:
    away = _Away()
    for sequence in range(1, received + 1):
        away.receive(sequence)
    away.receive(7, cut=True)
    _meets_grief(lambda: incoming.abort(away.open(**{kind: number}), REPLICA, "beta", 60.0))
    away.receive(8)
    assert away.shows() == [*range(1, received + 1), 8]


@pytest.mark.parametrize(("kind", "number"), _GRIEF)
@pytest.mark.parametrize("received", [0, 1])
@pytest.mark.parametrize("cut", [False, True])
def test_wherever_a_stream_fails_to_begin_the_replica_takes_the_next(
    cut: bool, received: int, kind: str, number: int
) -> None:
    away = _Away()
    for sequence in range(1, received + 1):
        away.receive(sequence)
    if cut:
        away.receive(7, cut=True)
    _meets_grief(lambda: away.receive(8, cut=True, **{kind: number}))
    away.receive(9)
    assert away.shows() == [*range(1, received + 1), 9]


@pytest.mark.parametrize("number", range(6))
def test_whenever_a_later_owner_comes_between_a_stale_one_changes_no_mark_of_its(number: int) -> None:
    away = _Away()
    anchor.make(away.open(), 101, "beta")
    anchor.change(away.open(), 101, "beta", 1, {"sent.n1": "1-1"})
    seen = itertools.count()

    def later_owner() -> None:
        if next(seen) == number:
            anchor.change(away.open(), 101, "gamma", 2, {"sent.n1": "2-1"})

    stale = Call(away.ceph.rng, away.ceph, "beta")
    stale.between = later_owner
    with contextlib.suppress(Refused):
        anchor.change(ModelPool(away.pool, stale), 101, "beta", 1, {"sent.n1": "1-2"})  # type: ignore[arg-type]
    marks = anchor.read(away.open(), 101)
    assert marks is not None
    assert marks.values["sent.n1"] == ("2-1" if next(seen) > number else "1-2")


def test_a_snapshot_of_the_same_name_that_is_not_the_recorded_one_is_left_alone() -> None:
    away = _Away()
    away.receive(1)
    away.receive(2)
    was = away.image.snaps.pop("holdfast-1-1")
    away.pool.snapshot(away.image, "holdfast-1-1", foreign=True)
    away.image.metadata.pop(f"{names.SNAP}holdfast-1-1")
    with pytest.raises(Refused, match="left alone"):
        points.destroy(away.open(), [Doomed(f"{REPLICA}@holdfast-1-1", was.guid)])
    assert away.image.snaps.keys() == {"holdfast-1-1", "holdfast-1-2"}


def test_what_is_written_to_a_replica_counts_once_it_is_a_guests_disk() -> None:
    away = _Away()
    away.receive(1)
    away.receive(2, cut=True)
    incoming.abort(away.open(), REPLICA, "beta", 60.0)
    assert look(away.open(), REPLICA, "beta").written == 0
    del away.image.metadata[names.REPLICA]
    away.image.put(Image(5, 5 << 20, 1 << 30))
    assert look(away.open(), REPLICA, "beta").written > 0


def test_a_replica_that_somebody_wrote_to_is_left_alone() -> None:
    away = _Away()
    away.receive(1)
    away.image.put(Image(5, 5 << 20, 1 << 30))
    with pytest.raises(Refused, match="written to"):
        away.receive(2)
    assert look(away.open(), REPLICA, "beta").written > 0
