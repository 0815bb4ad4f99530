from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.kept import Rules
from holdfast.coordinator.planning.observed import Scan, Volume
from holdfast.coordinator.planning.superseded import Superseded, superseded
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, Home, assignment, dataset, disk_map


class Replica:
    """A target that has committed all points of a home but the newest, which it commits now.

    The records are those of an owner, one a pool, as they are where a former owner has become a target.
    """

    def __init__(self, *slots: str) -> None:
        self.home = Home(*slots)
        self.points: list[RecoveryPoint] = []

    def take(self, *slots: str, hours: float = 0, definition: str = "d") -> None:
        self.points.append(self.home.take(*slots, at=NOON + timedelta(hours=hours), definition=definition))

    def scan(self) -> Scan:
        """The newest point's snapshots are here, its record is not yet."""
        anchors = {
            key: replace(anchor, points=tuple(p for p in anchor.points if p.id != self.points[-1].id))
            for key, anchor in self.home.anchors.items()
        }
        return Scan(NOON, {name: marked(volume) for name, volume in self.home.volumes.items()}, anchors)

    def goes(self, keep: str, slots: tuple[str, ...] = ("scsi0", "scsi1")) -> Superseded:
        disks = tuple(replace(disk_map(slot), target_dataset=dataset(slot)) for slot in slots)
        to = replace(assignment(keep=Keep.parse(keep)), disks=disks)
        return superseded(to, self.scan(), self.points[-1], Rules(every_point=to.keep))


def marked(volume: Volume, vmid: int = VMID) -> Volume:
    return replace(volume, marks={"replica": f"{vmid}/{volume.dataset.rpartition('-')[2]}"})


def hourly(count: int, *slots: str) -> Replica:
    """So many points, an hour apart, every disk written to before each."""
    replica = Replica(*slots)
    for hour in range(count):
        replica.home.write(*(slots or ("scsi0", "scsi1")))
        replica.take(hours=hour)
    return replica


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ("last=1", [5]),
        ("last=3", [3, 4, 5]),
        ("last=9", [1, 2, 3, 4, 5]),
        ("hourly=2", [4, 5]),
        ("daily=7", [5]),
        ("yearly=1", [5]),
        ("", [1, 2, 3, 4, 5]),
        ("all=1", [1, 2, 3, 4, 5]),
    ],
)
def test_the_policys_rule_decides_what_stays(keep: str, stay: list[int]) -> None:
    replica = hourly(5)
    goes = replica.goes(keep)
    assert [id.sequence for id in goes.forget] == [n for n in range(1, 6) if n not in stay]
    assert {d.guid for d in goes.destroy} == {m.guid for p in replica.points if p.id in goes.forget for m in p.members}
    assert all(d.snapshot.startswith("tank/") for d in goes.destroy), "the target's own datasets"


def test_the_newest_by_number_stays_also_when_the_owners_clock_went_back() -> None:
    replica = Replica("scsi0")
    for hours in (5, 6, 1):
        replica.home.write("scsi0")
        replica.take(hours=hours)
    goes = replica.goes("last=1", ("scsi0",))
    assert replica.points[-1].id not in goes.forget
    assert goes.forget == (PointId(1, 1),), "the newest by its instant stays too"


def test_what_is_committed_stays_also_where_later_points_are_recorded() -> None:
    replica = hourly(4)
    replica.points = [*replica.points[1:], replica.points[0]]  # of a new owner that has no later one

    goes = replica.goes("last=1")

    assert replica.points[-1].id not in goes.forget
    assert not {m.guid for m in replica.points[-1].members} & {d.guid for d in goes.destroy}


def test_the_snapshot_of_an_idle_disk_stays_while_a_point_that_is_kept_shares_it() -> None:
    replica = Replica()
    for hour in range(4):
        replica.home.write("scsi0")
        replica.take(hours=hour)
    goes = replica.goes("last=1")
    assert [id.sequence for id in goes.forget] == [1, 2, 3]
    assert {d.snapshot.partition("@")[0] for d in goes.destroy} == {dataset("scsi0")}


def test_definitions_go_with_the_last_point_that_has_them() -> None:
    replica = Replica("scsi0")
    for hour, definition in enumerate(("a", "b", "b", "c")):
        replica.home.write("scsi0")
        replica.take(hours=hour, definition=definition)
    assert replica.goes("last=2", ("scsi0",)).definitions == (("a", "text"),)
    assert replica.goes("last=1", ("scsi0",)).definitions == (("a", "text"), ("b", "text"))
    assert replica.goes("all=1", ("scsi0",)).definitions == ()


def test_a_definition_that_comes_back_with_the_point_that_is_committed_stays() -> None:
    replica = Replica("scsi0")
    for hour, definition in enumerate(("a", "b", "a")):
        replica.home.write("scsi0")
        replica.take(hours=hour, definition=definition)
    assert replica.goes("last=1", ("scsi0",)).definitions == (("b", "text"),)


def without_scsi1(points: int = 2) -> Replica:
    """So many points lack it, after one that has it."""
    replica = Replica()
    replica.take(hours=0)
    for hour in range(points):
        replica.home.write("scsi0")
        replica.take("scsi0", hours=1 + hour)
    return replica


def test_the_replica_of_a_removed_disk_stays_in_place_while_a_point_that_is_kept_has_it() -> None:
    assert without_scsi1().goes("last=3", ("scsi0",)).aside == ()


def test_the_first_point_that_lacks_a_disk_leaves_its_replica_ready_to_go_on_with() -> None:
    replica = without_scsi1(points=1)
    goes = replica.goes("last=1", ("scsi0",))
    assert goes.aside == ()
    assert replica.points[0].member("scsi1").guid not in {d.guid for d in goes.destroy}  # type: ignore[union-attr]


def test_then_it_goes_aside() -> None:
    assert without_scsi1().goes("last=1", ("scsi0",)).aside == (dataset("scsi1"),)


def test_a_disk_that_is_assigned_and_has_no_point_yet_stays_in_place() -> None:
    assert without_scsi1().goes("last=1", ("scsi0", "scsi1")).aside == ()


def test_the_newest_point_of_a_disk_that_was_pulled_out_and_has_come_back_stays_until_a_later_one_has_it() -> None:
    """Its next increment is received on top of that snapshot."""
    replica = without_scsi1(points=1)
    replica.home.write("scsi0")
    replica.take("scsi0", hours=2)
    goes = replica.goes("last=1", ("scsi0", "scsi1"))
    assert goes.forget == (PointId(1, 2),)
    replica.home.write("scsi1")
    replica.take(hours=3)
    goes = replica.goes("last=1", ("scsi0", "scsi1"))
    assert goes.forget == (PointId(1, 1), PointId(1, 2), PointId(1, 3))


def test_of_a_disk_that_came_back_a_point_whose_snapshot_has_gone_is_no_base() -> None:
    replica = without_scsi1(points=1)
    replica.home.destroy("scsi1", replica.points[0].members[1].guid)
    assert replica.goes("last=1", ("scsi0", "scsi1")).forget == (PointId(1, 1),)


def test_what_is_aside_already_what_is_not_marked_and_what_is_another_guests_stays_where_it_is() -> None:
    replica = without_scsi1()
    volume = replica.home.volumes.pop(dataset("scsi1"))
    scan = replica.scan()
    aside = marked(replace(volume, dataset="tank/holdfast/aside/101-e1-1-x"))
    others = marked(replace(volume, dataset="tank/vm-10-disk-0"), vmid=10)
    longer = marked(replace(volume, dataset="tank/vm-1011-disk-0"), vmid=1011)
    unmarked = replace(volume, dataset="tank/vm-101-disk-9")
    volumes = {**scan.volumes, **{v.dataset: v for v in (aside, others, longer, unmarked)}}
    to = replace(assignment(slots=("scsi0",)), disks=(replace(disk_map("scsi0"), target_dataset=dataset("scsi0")),))
    assert superseded(to, replace(scan, volumes=volumes), replica.points[-1], Rules(every_point=to.keep)).aside == ()


@given(
    keep=st.dictionaries(st.sampled_from(["last", "hourly", "daily", "weekly"]), st.integers(1, 4), max_size=3),
    written=st.lists(
        st.tuples(st.sets(st.sampled_from(["scsi0", "scsi1", "fast0"])), st.integers(-5, 400)), min_size=1, max_size=12
    ),
)
def test_nothing_that_a_point_which_is_kept_needs_is_ever_destroyed(
    keep: dict[str, int], written: list[tuple[set[str], int]]
) -> None:
    slots = ("scsi0", "scsi1", "fast0")
    replica = Replica(*slots)
    for disks, hours in written:
        replica.home.write(*disks)
        replica.take(hours=hours)
    goes = replica.goes(",".join(f"{rule}={count}" for rule, count in keep.items()), slots)
    kept = [p for p in replica.points if p.id not in goes.forget]
    assert replica.points[-1] in kept
    assert not {d.guid for d in goes.destroy} & {m.guid for p in kept for m in p.members}
    left = {s.guid for v in replica.home.volumes.values() for s in v.snapshots} - {d.guid for d in goes.destroy}
    assert left == {m.guid for p in kept for m in p.members}, "and nothing else is left"
    assert keep or not goes.forget
