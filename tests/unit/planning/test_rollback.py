"""How a guest is brought back to a point: every state that a crash can leave leads to the same end."""

from dataclasses import replace
from datetime import UTC

import pytest
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import copied, plan_cleanup
from holdfast.coordinator.planning.observed import Scan, Volume
from holdfast.coordinator.planning.protection import plan_point, plan_target
from holdfast.coordinator.planning.rollback import (
    CloneBack,
    Impossible,
    Move,
    Promote,
    PutAside,
    PutBack,
    RollBack,
    RollbackStep,
    begun,
    left_alone,
    moves,
    plan_moves,
    remaining,
    return_move,
    touched,
    unfinished_return,
    would_lose,
)
from holdfast.coordinator.planning.steps import ReturnTo, SendDisk, SetAside
from unit.planning.made import NOON, VMID, Home, assignment, dataset, disk_map, holding, protection, there

REQUEST = "rollback-101-abc"


def carried_out(scan: Scan, step: RollbackStep) -> Scan:
    """What ZFS or RBD makes of a step."""
    volumes = dict(scan.volumes)
    match step:
        case PutAside():
            assert step.aside not in volumes
            volumes[step.aside] = replace(volumes.pop(step.dataset), dataset=step.aside)
        case CloneBack():
            assert step.dataset not in volumes
            source = volumes[step.snapshot.partition("@")[0]]
            volumes[step.dataset] = replace(
                source, dataset=step.dataset, origin=step.snapshot, snapshots=(), bookmarks=(), written=0
            )
        case Promote():
            aside = volumes[step.snapshot.partition("@")[0]]
            until = next(s.createtxg for s in aside.snapshots if s.guid == step.guid)
            mine = tuple(s for s in aside.snapshots if s.createtxg <= until)
            rest = tuple(s for s in aside.snapshots if s.createtxg > until)
            origin = f"{step.dataset}@{mine[-1].name}"
            volumes[aside.dataset] = replace(aside, snapshots=rest, origin=origin)
            volumes[step.dataset] = replace(volumes[step.dataset], snapshots=mine, origin=None)
        case RollBack():
            old = volumes[step.aside]
            assert old.snapshot(step.guid) is not None
            volumes[step.aside] = replace(old, written=4096, marks={**old.marks, "back": step.mark})
        case PutBack():
            assert step.dataset not in volumes
            volumes[step.dataset] = replace(volumes.pop(step.aside), dataset=step.dataset)
    return replace(scan, volumes=volumes)


def planned(wanted: list[Move], scan: Scan) -> list[RollbackStep]:
    steps = plan_moves(wanted, scan)
    assert not isinstance(steps, Impossible), steps
    return steps


@pytest.fixture
def home() -> Home:
    """Two points; since the second both disks were written to."""
    made = Home("scsi0", "scsi1")
    for _ in range(2):
        made.write("scsi0", "scsi1")
        made.take()
    made.write("scsi0", "scsi1")
    return made


def test_all_heads_go_aside_before_the_first_clone_is_made(home: Home) -> None:
    point = home.scan().complete_points(VMID)[0]
    kinds = [type(step) for step in planned(moves(point, VMID, 1, REQUEST), home.scan())]
    assert kinds == [PutAside, PutAside, CloneBack, CloneBack, Promote, Promote]


@pytest.mark.parametrize("crash", range(7))
def test_after_a_crash_at_any_step_what_is_left_is_done_and_nothing_is_lost(home: Home, crash: int) -> None:
    scan = home.scan()
    before = {s.guid for v in scan.volumes.values() for s in v.snapshots}
    point = scan.complete_points(VMID)[0]
    wanted = moves(point, VMID, 1, REQUEST)
    assert not begun(wanted, scan)
    for step in planned(wanted, scan)[:crash]:
        scan = carried_out(scan, step)
    assert begun(wanted, scan) is touched(REQUEST, scan) is (crash > 0)
    for _ in range(6):
        for step in planned(wanted, scan)[:1]:
            scan = carried_out(scan, step)
    assert planned(wanted, scan) == []
    for member in point.members:
        head = scan.volumes[member.dataset]
        assert head.newest is not None
        assert head.newest.guid == member.guid
    assert {s.guid for v in scan.volumes.values() for s in v.snapshots} == before
    assert scan.complete_points(VMID) == [point]


def test_what_went_aside_with_one_rollback_is_no_point_to_go_back_to_with_the_next(home: Home) -> None:
    scan = home.scan()
    first, later = scan.complete_points(VMID)
    wanted = moves(first, VMID, 1, REQUEST)
    while steps := planned(wanted, scan):
        scan = carried_out(scan, steps[0])
    assert later in scan.recorded_points(VMID).values(), "its record is there still"
    assert isinstance(plan_moves(moves(later, VMID, 1, "rollback-101-another"), scan), Impossible)
    assert not touched("rollback-101-another", scan)


def on_rbd(scan: Scan) -> Scan:
    """The same guest with its disks on RBD."""
    text = {v.dataset: f"rbd:home/{v.dataset.partition('/')[2]}" for v in scan.volumes.values()}
    volumes = {text[name]: replace(v, dataset=text[name]) for name, v in scan.volumes.items()}
    anchors = {}
    for anchor in scan.anchors.values():
        points = tuple(
            p.model_copy(
                update={"members": tuple(m.model_copy(update={"dataset": text[m.dataset]}) for m in p.members)}
            )
            for p in anchor.points
        )
        anchors["rbd:home", VMID] = replace(anchor, pool="rbd:home", points=points)
    return replace(scan, volumes=volumes, anchors=anchors)


@pytest.mark.parametrize("crash", range(7))
def test_on_rbd_no_head_has_its_name_back_before_all_are_rolled_back(home: Home, crash: int) -> None:
    scan = on_rbd(home.scan())
    point = scan.complete_points(VMID)[0]
    wanted = moves(point, VMID, 1, REQUEST)
    assert [type(step) for step in planned(wanted, scan)] == [PutAside, PutAside, RollBack, RollBack, PutBack, PutBack]
    for step in planned(wanted, scan)[:crash]:
        scan = carried_out(scan, step)
    assert begun(wanted, scan) is touched(REQUEST, scan) is (crash > 0)
    for _ in range(6):
        assert left_alone(wanted, scan) == set()
        for step in planned(wanted, scan)[:1]:
            scan = carried_out(scan, step)
            heads = [scan.volumes.get(move.dataset) for move in wanted]
            back = [move.aside not in scan.volumes and "back" in scan.volumes[move.dataset].marks for move in wanted]
            assert all(heads) is (all(back) or not begun(wanted, scan)), "or the guest could start from a mixture"
    assert planned(wanted, scan) == remaining(wanted, scan) == []
    assert len(scan.complete_points(VMID)) == 2, "nothing is lost"
    again = moves(point, VMID, 1, "rollback-101-another")
    assert not begun(again, scan), "another request begins anew"


def test_on_rbd_what_was_unchanged_is_told_from_what_was_not_reached(home: Home) -> None:
    scan = on_rbd(home.scan())
    wanted = moves(scan.complete_points(VMID)[0], VMID, 1, REQUEST)
    scan = carried_out(scan, planned(wanted[:1], scan)[0])
    assert left_alone(wanted, scan) == set(), "the other may not have been reached"
    scan = carried_out(scan, planned(wanted[:1], scan)[0])
    assert left_alone(wanted, scan) == {wanted[1].dataset}
    assert remaining(wanted, scan) == planned(wanted[:1], scan)


def test_on_rbd_two_images_of_one_disk_are_left_to_a_person(home: Home) -> None:
    scan = on_rbd(home.scan())
    wanted = moves(scan.complete_points(VMID)[0], VMID, 1, REQUEST)
    scan = carried_out(scan, planned(wanted, scan)[0])
    foreign = Volume(wanted[0].dataset, "volume", 9, 1, 0, 0, 0, False, None, None, {})
    scan = replace(scan, volumes={**scan.volumes, foreign.dataset: foreign})
    assert isinstance(plan_moves(wanted, scan), Impossible)


def test_a_disk_that_was_left_alone_is_told_from_one_that_was_not_reached(home: Home) -> None:
    scan = home.scan()
    point = scan.complete_points(VMID)[0]
    wanted = moves(point, VMID, 1, REQUEST)
    scan = carried_out(scan, planned(wanted[:1], scan)[0])
    assert left_alone(wanted, scan) == set(), "the other was not reached, as far as anybody can tell"
    scan = carried_out(scan, planned(wanted[:1], scan)[0])
    assert left_alone(wanted, scan) == {dataset("scsi1")}


def test_a_head_that_somebody_else_made_is_not_touched(home: Home) -> None:
    scan = home.scan()
    wanted = moves(scan.complete_points(VMID)[0], VMID, 1, REQUEST)
    scan = carried_out(scan, planned(wanted, scan)[0])
    foreign = Volume(dataset("scsi0"), "volume", 9, 1, 0, 0, 0, False, None, None, {})
    scan = replace(scan, volumes={**scan.volumes, foreign.dataset: foreign})
    assert isinstance(plan_moves(wanted, scan), Impossible)


def test_what_would_be_lost_is_told(home: Home) -> None:
    home.snapshot("scsi1", "by-hand")
    scan = home.scan()
    said = "\n".join(would_lose(scan.complete_points(VMID)[0], scan, VMID))
    assert "point 1-2" in said
    assert "scsi0: 8192 bytes" in said
    assert "with the snapshots by-hand" in said


def _rolled_back(home: Home, to: int = 0) -> Scan:
    scan = home.scan()
    wanted = moves(scan.complete_points(VMID)[to], VMID, 1, REQUEST)
    for step in planned(wanted, scan):
        scan = carried_out(scan, step)
    return scan


def test_a_replica_that_is_ahead_goes_back_and_is_gone_on_with(home: Home) -> None:
    first, second = home.scan().complete_points(VMID)
    after = _rolled_back(home)
    home.volumes = dict(after.volumes)
    home.write("scsi0", "scsi1")
    third = home.take("scsi0", "scsi1")
    plan = plan_target(assignment(), 1, home.scan(), holding(first, second))
    assert plan.goal == third
    assert [type(s) for s in plan.steps[:-1]] == [ReturnTo, SendDisk] * 2
    sends = [s for s in plan.steps if isinstance(s, SendDisk)]
    assert [s.base for s in sends] == [f"@{m.snapshot}" for m in first.members]


def test_a_replica_goes_back_though_it_keeps_points_that_the_owner_had_let_go_of(home: Home) -> None:
    """Its rules keep more; its newest snapshot is one that went aside, so what is in between is of that history."""
    home.take()
    points = home.scan().complete_points(VMID)
    for slot in ("scsi0", "scsi1"):
        left = [s for s in home.volumes[dataset(slot)].snapshots if s.guid != points[1].member(slot).guid]  # type: ignore[union-attr]
        home.change(slot, snapshots=tuple(left))
    home.volumes = dict(_rolled_back(home).volumes)
    home.write("scsi0", "scsi1")
    home.take("scsi0", "scsi1")
    plan = plan_target(assignment(), 1, home.scan(), holding(*points))
    assert [type(s) for s in plan.steps[:-1]] == [ReturnTo, SendDisk] * 2


def test_what_a_replica_may_go_back_to_stays_until_it_has_gone_on(home: Home) -> None:
    """Of the points that went before, it may have any; its own newest went aside with the rollback."""
    home.take()
    home.sent("beta", PointId(1, 3))
    home.volumes = dict(_rolled_back(home, 1).volumes)
    for _ in range(2):
        home.write("scsi0", "scsi1")
        home.take("scsi0", "scsi1")
    forgotten = [id for id in plan_cleanup(VMID, home.scan(), ["beta"]).forget if id < PointId(1, 3)]
    assert forgotten == []
    home.sent("beta", PointId(1, 5))
    assert PointId(1, 1) in plan_cleanup(VMID, home.scan(), ["beta"]).forget


def test_a_replica_without_the_point_is_set_aside_and_one_with_a_foreign_snapshot_is_left_alone(home: Home) -> None:
    first, second = home.scan().complete_points(VMID)
    home.volumes = dict(_rolled_back(home).volumes)
    home.write("scsi0", "scsi1")
    home.take("scsi0", "scsi1")
    assert any(isinstance(s, SetAside) for s in plan_target(assignment(), 1, home.scan(), holding(second)).steps)
    guids = [p.member("scsi0").guid for p in (first, second) if p.member("scsi0")]  # type: ignore[union-attr]
    foreign = there("scsi0", *guids, 0xF0)
    plan = plan_target(assignment(), 1, home.scan(), holding(first, second, volumes=[foreign]))
    assert [c.reason for c in plan.conditions] == ["ReplicaHasOtherSnapshots"]


def test_a_return_that_was_cut_short_is_found_by_the_asides_name(home: Home) -> None:
    scan, name = home.scan(), dataset("scsi0")
    base, newest = scan.volumes[name].snapshots
    move = return_move(name, VMID, 1, base, newest)
    for step in planned([move], scan):
        assert unfinished_return(name, VMID, scan) in (None, move)
        scan = carried_out(scan, step)
        assert unfinished_return(disk_map("scsi1").dataset, VMID, scan) is None
    assert unfinished_return(name, VMID, scan) is None


def test_while_a_guest_is_rolled_back_its_status_says_so_and_nothing_is_taken_or_brought(home: Home) -> None:
    scan, first = home.scan(), home.scan().complete_points(VMID)[0]
    steps = planned(moves(first, VMID, 1, REQUEST), scan)
    for step in steps:
        scan = carried_out(scan, step)
        done = step is steps[-1]
        point = plan_point(protection(), 1, scan, ["beta"], NOON, UTC)
        assert ["RollbackUnderWay"] * (not done) == [c.reason for c in point.conditions]
        target = plan_target(assignment(), 1, scan, holding(first))
        if not all(d.dataset in scan.volumes for d in assignment().disks):
            continue
        assert [("RollbackUnderWay", "beta")] * (not done) == [(c.reason, c.target) for c in target.conditions]


def test_of_an_idle_disk_that_a_clone_hangs_on_not_every_later_point_stays(home: Home) -> None:
    """Its snapshot is a member of each."""
    scan = _rolled_back(home)
    [first] = scan.complete_points(VMID)
    later = [RecoveryPoint.model_validate({**first.model_dump(), "sequence": number}) for number in range(3, 8)]
    assert copied(VMID, [first, *later], scan) == {PointId(1, 7)}
