from dataclasses import replace

import pytest
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.planning.observed import Scan, pool_of
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, Home, dataset


def test_a_volume_is_unchanged_only_since_a_snapshot_that_it_has_and_after_which_nothing_was_written() -> None:
    home = Home("scsi0")
    first = home.snapshot("scsi0", "a").guid
    home.snapshot("scsi0", "b")
    volume = home.volumes[dataset("scsi0")]
    assert volume.unchanged_since(first)
    assert not volume.unchanged_since(0xBAD)
    assert not replace(volume, written=1).unchanged_since(first)
    home.write("scsi0")
    written = home.snapshot("scsi0", "c").guid
    volume = home.volumes[dataset("scsi0")]
    assert not volume.unchanged_since(first)
    assert volume.unchanged_since(written)


def test_the_epoch_of_a_guest_is_the_highest_on_any_pool() -> None:
    home = Home("scsi0", "fast0")
    home.take(epoch=1)
    home.anchors["fast", VMID] = replace(home.anchors["fast", VMID], epoch=4)
    assert home.scan().epoch_of(VMID) == 4
    assert home.scan().epoch_of(102) == 0


@pytest.mark.parametrize("lost", ["record", "snapshot", "dataset", "other GUID"])
def test_a_point_is_complete_only_while_every_member_is_there_with_its_guid(lost: str) -> None:
    home = Home("scsi0", "scsi1")
    point = home.take()
    assert home.scan().complete_points(VMID) == [point]
    member = point.members[1]
    if lost == "record":
        short = point.model_copy(update={"members": point.members[:1]})
        home.anchors["tank", VMID] = replace(home.anchors["tank", VMID], points=(short,))
    elif lost == "snapshot":
        home.destroy("scsi1", member.guid)
    elif lost == "dataset":
        del home.volumes[member.dataset]
    else:
        [snapshot] = home.volumes[member.dataset].snapshots
        home.change("scsi1", snapshots=(replace(snapshot, guid=0xBAD),))
    assert home.scan().complete_points(VMID) == []


def test_points_are_ordered_by_epoch_and_number() -> None:
    assert sorted([PointId(2, 1), PointId(1, 10), PointId(1, 9)]) == [PointId(1, 9), PointId(1, 10), PointId(2, 1)]


@given(
    st.lists(st.tuples(st.sets(st.sampled_from(["scsi0", "scsi1", "fast0"])), st.booleans()), min_size=1, max_size=8)
)
def test_what_is_amended_after_a_point_is_what_a_scan_would_show(history: list[tuple[set[str], bool]]) -> None:
    """`with_point` on the scan before, against the scan after, in all that plans look at."""
    home = Home("scsi0", "scsi1", "fast0")
    for written, changed in history:
        home.write(*written)
        before = home.scan()
        point = home.take(definition="new" if changed else "old")
        amended = before
        for pool in ("tank", "fast"):
            here = point.model_copy(update={"members": tuple(m for m in point.members if pool_of(m.dataset) == pool)})
            amended = amended.with_point(pool, VMID, here, "text")
        assert _seen(amended) == _seen(home.scan())


def _seen(scan: Scan) -> object:
    volumes = {
        name: (v.written, v.size, [(s.name, s.guid, s.written) for s in v.snapshots])
        for name, v in scan.volumes.items()
    }
    return volumes, scan.anchors, scan.complete_points(VMID)


def test_what_is_amended_after_a_destroy_touches_no_other_guest() -> None:
    home = Home("scsi0")
    point = home.take()
    other = replace(home.volumes[dataset("scsi0")], dataset="tank/vm-102-disk-0")
    scan = Scan(NOON, {**home.volumes, other.dataset: other}, dict(home.anchors))
    after = scan.without(VMID, {point.members[0].guid}, {point.id})
    assert after.volumes[dataset("scsi0")].snapshots == ()
    assert after.anchors["tank", VMID].points == ()
    assert after.volumes[other.dataset] == other


def test_a_look_that_failed_somewhere_may_lack_members_of_a_guests_points() -> None:
    home = Home("scsi0", "fast0")
    home.take()
    whole = home.scan()
    assert whole.sees_all_of(VMID)
    assert replace(whole, failed={"elsewhere": "no mon answers"}).sees_all_of(VMID)
    part = replace(
        whole,
        volumes={name: v for name, v in whole.volumes.items() if pool_of(name) == "tank"},
        anchors={key: a for key, a in whole.anchors.items() if key[0] == "tank"},
    )
    assert part.sees_all_of(VMID)
    assert not replace(part, failed={"fast": "no mon answers"}).sees_all_of(VMID)
