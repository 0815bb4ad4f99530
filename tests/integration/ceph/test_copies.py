"""Copies of points on a real Ceph, and snapshots that have clones of others."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from holdfast.agent.guests import krbd
from holdfast.agent.ports import CopyOrder, Refused, VolumesError
from holdfast.agent.storage.rbd import binding
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.point import Consistency, RecoveryPoint
from holdfast.coordinator.planning.copies import CopyMark, copies, dataset
from holdfast.coordinator.planning.leftovers import Doomed
from integration.ceph.cluster import CephCluster
from integration.ceph.home import IMAGES, order, volumes_on
from integration.ceph.site import Hand, Site, Where, by_hand

pytestmark = pytest.mark.timeout(120, func_only=True)

COPY = f"holdfast.clones.101-look-{IMAGES[0]}"
DATASET = f"rbd:home/holdfast/clones/101-look-{IMAGES[0]}"


@pytest.fixture(params=["1", "2"], ids=["old clones", "new clones"])
def where(request: pytest.FixtureRequest, place: Callable[..., Where], ceph: CephCluster, newest: CephCluster) -> Where:
    """Clones are of the old kind unless the cluster asks clients for more."""
    return place("home", newest if request.param == "2" else ceph)


@pytest.fixture
async def volumes(where: Where, tmp_path: Path) -> AsyncIterator[NodeVolumes]:
    async with volumes_on(where, tmp_path, answers_in=5) as made:
        yield made


def copy_of(point: RecoveryPoint, folder: str | None = None) -> CopyOrder:
    """Of the point's first disk, as `look`."""
    member = point.members[0]
    mark = CopyMark(vmid=101, name="look", point=str(point.id), disk=member.disk)
    return CopyOrder(
        member.full_name,
        dataset(101, "look", member.dataset),
        "volume",
        mark.model_dump_json(exclude_none=True),
        folder,
    )


def by_name(point: RecoveryPoint) -> list[str]:
    return [member.full_name for member in point.members]


async def gone(volumes: NodeVolumes, point: RecoveryPoint) -> None:
    """Let go of a point's snapshots as the engine does."""
    await volumes.release(by_name(point))
    await volumes.destroy("rbd:home", 101, 1, [Doomed(m.full_name, m.guid) for m in point.members], [point.id], [])


async def test_a_copy_shows_the_point_and_what_is_written_to_it_stays_in_it(volumes: NodeVolumes, where: Where) -> None:
    with by_hand(where) as hand:
        hand.write(IMAGES[0], b"as it was")
        point = await volumes.take(order(1, Consistency.ATOMIC))
        await volumes.hold(by_name(point))
        hand.write(IMAGES[0], b"later....")
        await volumes.make_copy(copy_of(point))
        found = copies(await volumes.scan())[101, "look"]
        assert found.datasets == {"scsi0": DATASET}
        assert hand.read(COPY, length=9) == b"as it was"
        hand.write(COPY, b"in copy..")
        assert hand.read(IMAGES[0], length=9) == b"later...."
        assert hand.read(IMAGES[0], point.members[0].snapshot, 9) == b"as it was"
        with pytest.raises(Refused, match="Choose another name"):
            await volumes.make_copy(copy_of(point))
        await volumes.drop_copy(found.datasets["scsi0"])
        assert copies(await volumes.scan()) == {}
        assert hand.read(IMAGES[0], point.members[0].snapshot, 9) == b"as it was"
        await gone(volumes, point)
        assert hand.snapshots(IMAGES[0]) == []


async def _copy_of_a_replica(volumes: NodeVolumes, hand: Hand) -> RecoveryPoint:
    """The point, which nobody protects."""
    point = await volumes.take(order(1, Consistency.ATOMIC))
    with binding.rbd().Image(hand.io, IMAGES[0]) as image:
        image.metadata_set("holdfast.replica", "101/scsi0 alpha")
    await volumes.make_copy(copy_of(point))
    return point


async def test_a_copy_of_a_replicas_point_is_none_of_its_replicas_and_leaves_its_snapshot_as_it_was(
    volumes: NodeVolumes, where: Where
) -> None:
    with by_hand(where) as hand:
        point = await _copy_of_a_replica(volumes, hand)
        marks = (await volumes.scan()).volumes[DATASET].marks
        assert marks.keys() == {"copy"}
        await volumes.drop_copy(DATASET)
        with binding.rbd().Image(hand.io, IMAGES[0]) as image:
            assert not image.is_protected_snap(point.members[0].snapshot)


async def test_a_copy_that_was_flattened_holds_nothing_and_is_removed_as_any_other(
    volumes: NodeVolumes, where: Where
) -> None:
    with by_hand(where) as hand:
        hand.write(IMAGES[0], b"as it was")
        point = await volumes.take(order(1, Consistency.ATOMIC))
        await volumes.hold(by_name(point))
        await volumes.make_copy(copy_of(point))
        with binding.rbd().Image(hand.io, COPY) as image:
            image.flatten()
        await gone(volumes, point)
        assert hand.snapshots(IMAGES[0]) == []
        assert hand.read(COPY, length=9) == b"as it was"
        await volumes.drop_copy(DATASET)
        assert COPY not in binding.rbd().RBD().list(hand.io)


async def test_a_copy_is_flattened_by_one_call_which_may_be_made_again(volumes: NodeVolumes, where: Where) -> None:
    with by_hand(where) as hand:
        hand.write(IMAGES[0], b"as it was")
        hand.write(IMAGES[0], b"far away", 50 * 2**20)
        point = await volumes.take(order(1, Consistency.ATOMIC))
        await volumes.hold(by_name(point))
        before = hand.read(IMAGES[0])
        hand.write(IMAGES[0], b"later....")
        await volumes.make_copy(copy_of(point))
        assert copies(await volumes.scan())[101, "look"].needs_point
        for _ in range(2):
            await volumes.flatten_copy(DATASET)
        assert not copies(await volumes.scan())[101, "look"].needs_point
        with binding.rbd().Image(hand.io, COPY) as image, pytest.raises(binding.rbd().ImageNotFound):
            image.get_parent_image_spec()
        await gone(volumes, point)
        assert hand.snapshots(IMAGES[0]) == []
        assert hand.read(COPY) == before
        await volumes.drop_copy(DATASET)


async def test_a_flattening_that_was_killed_is_gone_on_with(volumes: NodeVolumes, where: Where) -> None:
    with by_hand(where) as hand:
        for number in range(16):
            hand.write(IMAGES[0], b"object %d" % number, number * 4 * 2**20)
        point = await volumes.take(order(1, Consistency.ATOMIC))
        await volumes.hold(by_name(point))
        await volumes.make_copy(copy_of(point))
        await _flatten_and_die(where)
        assert copies(await volumes.scan())[101, "look"].needs_point
        await volumes.flatten_copy(DATASET)
        await gone(volumes, point)
        assert hand.read(COPY) == hand.read(IMAGES[0])


_DIES = """
import os, signal, sys
from pathlib import Path
from holdfast.agent.storage.rbd import binding
connection = binding.rados().Rados(conffile=sys.argv[1], rados_id="admin")
connection.connect()
io = connection.open_ioctx(sys.argv[2])
io.set_namespace(sys.argv[3])
def strike(done, total):
    if done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0
with binding.rbd().Image(io, sys.argv[4]) as image:
    image.flatten(on_progress=strike)
"""


async def _flatten_and_die(where: Where) -> None:
    """Half-way."""
    cluster, pool, namespace = where
    argv = [sys.executable, "-c", _DIES, str(cluster.conf), pool, namespace, COPY]
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == -signal.SIGKILL


async def test_the_snapshot_of_a_replica_goes_also_if_the_agent_died_once_its_copy_was_flat(
    volumes: NodeVolumes, where: Where
) -> None:
    """Clones of the old kind need it protected, and of a replica only what makes and flattens copies protects it."""
    with by_hand(where) as hand:
        point = await _copy_of_a_replica(volumes, hand)
        with binding.rbd().Image(hand.io, COPY) as image:
            image.flatten()
        await volumes.destroy("rbd:home", 101, 1, [Doomed(by_name(point)[0], point.members[0].guid)], [], [])
        assert hand.snapshots(IMAGES[0]) == []


async def test_a_snapshot_that_nobody_protects_is_copied_again_and_again(volumes: NodeVolumes) -> None:
    """librbd 16.2.15 does not survive for long that it is asked for clones that it refuses."""
    point = await volumes.take(order(1, Consistency.ATOMIC))
    for _ in range(40):
        await volumes.make_copy(copy_of(point))
        await volumes.drop_copy(DATASET)
        await volumes.release(by_name(point))


async def test_only_a_copy_of_this_node_is_removed(volumes: NodeVolumes, where: Where) -> None:
    Site.rbd(where, "create", "--size", "8M", "--image", COPY)
    with pytest.raises(Refused, match="left alone"):
        await volumes.drop_copy(DATASET)
    assert COPY.encode() in Site.rbd(where, "ls").split()


async def test_without_the_kernels_client_nothing_is_made_that_would_be_mounted(
    volumes: NodeVolumes, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(krbd, "BUS", tmp_path / "none")
    point = await volumes.take(order(1, Consistency.ATOMIC))
    with pytest.raises(Refused, match="modprobe rbd"):
        await volumes.make_copy(copy_of(point, folder="/run/x"))
    assert copies(await volumes.scan()) == {}


async def test_a_snapshot_with_a_clone_of_somebody_is_not_removed_and_the_clone_is_named(
    place: Callable[[str], Where], tmp_path: Path
) -> None:
    where = place("home")
    async with volumes_on(where, tmp_path, answers_in=5) as volumes:
        with by_hand(where) as hand:
            point = await volumes.take(order(1, Consistency.ATOMIC))
            await volumes.hold(by_name(point))
            cloned(hand, point.members[0].snapshot)
            named = rf"holdfast-1-1 is needed by rbd/{where[2]}/theirs\. Flatten"
            with pytest.raises(VolumesError, match=named):
                await volumes.release(by_name(point))
            with pytest.raises(VolumesError, match=named):
                await volumes.destroy(
                    "rbd:home", 101, 1, [Doomed(m.full_name, m.guid) for m in point.members], [point.id], []
                )
            assert hand.snapshots(IMAGES[0]) == ["holdfast-1-1"]
            assert (await volumes.scan()).volumes["rbd:home/theirs"].origin == f"rbd:home/{IMAGES[0]}@holdfast-1-1"
            with binding.rbd().Image(hand.io, "theirs") as image:
                image.flatten()
            await gone(volumes, point)
            assert hand.snapshots(IMAGES[0]) == []


async def test_a_snapshot_that_was_removed_under_its_clones_is_no_snapshot_any_more(
    place: Callable[..., Where], newest: CephCluster, tmp_path: Path
) -> None:
    """Ceph keeps its data, under a name of its own, for as long as there are clones of the new kind."""
    where = place("home", newest)
    async with volumes_on(where, tmp_path, answers_in=5) as volumes:
        with by_hand(where) as hand:
            point = await volumes.take(order(1, Consistency.ATOMIC))
            with binding.rbd().Image(hand.io, IMAGES[0]) as image:
                image.metadata_set("holdfast.replica", "101/scsi0 alpha")
            await volumes.make_copy(copy_of(point))
            cloned(hand, point.members[0].snapshot, "2")
            await gone(volumes, point)
            assert len(hand.snapshots(IMAGES[0])) == 1, "that which Ceph keeps"
            assert (await volumes.scan()).volumes[f"rbd:home/{IMAGES[0]}"].snapshots == ()
            await volumes.drop_copy(DATASET)
            assert COPY not in binding.rbd().RBD().list(hand.io)


def cloned(hand: Hand, snapshot: str, kind: str = "1") -> None:
    hand.connection.conf_set("rbd_default_clone_format", kind)
    binding.rbd().RBD().clone(hand.io, IMAGES[0], snapshot, hand.io, "theirs")
