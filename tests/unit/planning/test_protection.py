"""When a point is taken."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.point import Consistency, PointId
from holdfast.coordinator.model.report import PointReport
from holdfast.coordinator.model.snapshot_policy import Wish
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.protection import (
    TXG_MARGIN,
    Inventory,
    PointPlan,
    deadline,
    due_after,
    plan_point,
)
from holdfast.coordinator.planning.snapshots import Occasion
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import GUEST, NOON, VMID, Home, assignment, protection

UTC = ZoneInfo("UTC")
EMPTY = Inventory(0, (), {})


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def planned(
    home: Home,
    seconds: float,
    wanted: Protection | None = None,
    waiting: tuple[str, ...] = ("beta",),
    asked: datetime | None = None,
) -> PointPlan:
    """The plan so many seconds after noon, on a look that was taken then."""
    scan = home.scan(after(seconds))
    return plan_point(wanted or protection(), 1, scan, waiting, after(seconds), UTC, asked)


def test_the_first_point_is_taken_at_once() -> None:
    step = planned(Home(), 0).step
    assert step is not None
    assert step.point == PointId(1, 1)
    assert [slot for slot, _, _ in step.disks] == ["scsi0", "scsi1"]
    assert (step.definition, step.targets) == (GUEST.digest, ("beta",))


@pytest.mark.parametrize(("seconds", "taken"), [(1, False), (29.9, False), (30, True), (31, True), (300, True)])
def test_what_was_written_becomes_a_point_half_an_rpo_later(seconds: float, taken: bool) -> None:
    home = Home()
    home.take(at=NOON)
    home.write("scsi1")
    plan = planned(home, seconds)
    assert (plan.step is not None) is taken
    assert plan.due == (None if taken else after(30))


@pytest.mark.parametrize("offset", [0, 0.001, 7, 13, 29.999])
def test_guests_of_one_policy_fall_due_together_whenever_their_last_points_were(offset: float) -> None:
    assert due_after(assignment(rpo=60), after(offset), UTC) == after(30)


@given(
    rpo=st.floats(5, 366 * 86400),
    last=st.floats(0, 4e9).map(lambda t: datetime.fromtimestamp(t, UTC)),
)
def test_the_next_point_is_later_than_the_last_by_half_the_rpo_at_most(rpo: float, last: datetime) -> None:
    due = due_after(assignment(rpo=rpo), last, UTC)
    assert due is not None
    assert timedelta() < due - last <= timedelta(seconds=rpo / 2, milliseconds=1)


def test_a_schedule_is_read_in_the_nodes_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    wanted = assignment(rpo=None, schedule="22:30")
    assert due_after(wanted, NOON, berlin) == datetime(2026, 1, 2, 22, 30, tzinfo=berlin)


def test_of_several_targets_the_earliest_decides() -> None:
    home = Home()
    home.take(at=NOON)
    home.write("scsi0")
    both = protection(assignment("beta", rpo=600), assignment("gamma", rpo=20))
    assert planned(home, 5, both, ("beta", "gamma")).due == after(10)
    assert planned(home, 5, both, ("beta",)).due == after(300), "the fast target is busy: it does not decide"


def test_an_idle_guest_takes_no_point_and_says_until_when_nothing_had_changed() -> None:
    home = Home()
    home.take(at=NOON)
    plan = planned(home, 100)
    assert plan.step is None
    assert plan.unchanged_at == after(100) - TXG_MARGIN
    assert plan.due == after(120)


def test_a_point_is_never_said_to_be_fresher_than_itself_minus_a_transaction_group() -> None:
    home = Home()
    home.take(at=NOON)
    assert planned(home, 3).unchanged_at == NOON


def test_a_snapshot_of_somebody_elses_hides_no_write() -> None:
    home = Home()
    home.take(at=NOON)
    home.write("scsi0")
    home.snapshot("scsi0", "autosnap_hourly")
    assert planned(home, 60).step is not None


def test_a_snapshot_of_somebody_elses_alone_is_no_change() -> None:
    home = Home()
    home.take(at=NOON)
    home.snapshot("scsi0", "autosnap_hourly")
    assert planned(home, 60).step is None


def test_a_rollback_past_the_last_point_leaves_it_incomplete_and_the_next_is_taken() -> None:
    home = Home()
    point = home.take(at=NOON)
    home.destroy("scsi0", point.members[0].guid)
    step = planned(home, 1).step
    assert step is not None
    assert step.point == PointId(1, 2), "its number is not given out twice"


def test_a_changed_definition_makes_a_point_due_on_an_idle_guest() -> None:
    home = Home()
    home.take(at=NOON)
    changed = protection(guest=Guest(type="qemu", definition="cores: 4\n"))
    step = planned(home, 30, changed).step
    assert step is not None
    assert step.definition == changed.guest.digest != GUEST.digest


def test_a_resized_disk_makes_a_point_due() -> None:
    home = Home()
    home.take(at=NOON)
    home.change("scsi1", size=2**31)
    assert planned(home, 30).step is not None


@pytest.mark.parametrize("now_has", [("scsi0",), ("scsi0", "scsi1", "scsi2")])
def test_an_added_or_removed_disk_makes_a_point_due(now_has: tuple[str, ...]) -> None:
    home = Home("scsi0", "scsi1", "scsi2")
    home.take("scsi0", "scsi1", at=NOON)
    step = planned(home, 30, protection(assignment(slots=now_has))).step
    assert step is not None
    assert tuple(slot for slot, _, _ in step.disks) == now_has


def test_a_disk_that_was_moved_to_another_dataset_makes_a_point_due() -> None:
    home = Home("scsi0", "scsi1")
    point = home.take(at=NOON)
    elsewhere = point.members[0].model_copy(update={"dataset": "tank/elsewhere"})
    home.volumes["tank/elsewhere"] = home.volumes[point.members[0].dataset]
    key = ("tank", VMID)
    moved = point.model_copy(update={"members": (elsewhere, point.members[1])})
    home.anchors[key] = type(home.anchors[key])("tank", VMID, 1, (moved,))
    assert planned(home, 30).step is not None


def test_a_request_is_met_at_once_also_on_an_idle_guest_and_only_once() -> None:
    home = Home()
    home.take(at=NOON)
    asked = after(1)
    assert planned(home, 2, asked=asked).step is not None
    home.take(at=after(2))
    assert planned(home, 3, asked=asked).step is None


def test_a_request_from_a_clock_that_is_ahead_is_met_when_its_time_comes_not_over_and_over() -> None:
    home = Home()
    home.take(at=NOON)
    asked = after(25)
    plan = planned(home, 2, asked=asked)
    assert plan.step is None
    assert plan.due == asked
    assert planned(home, 25, asked=asked).step is not None


def test_without_a_target_that_could_take_it_no_point_is_taken() -> None:
    home = Home()
    home.take(at=NOON)
    home.write("scsi0")
    assert planned(home, 1000, waiting=()) == PointPlan(None)
    assert planned(home, 1000, waiting=(), asked=after(500)).step is None


def test_without_one_of_its_volumes_no_point_is_taken_and_the_disk_is_named() -> None:
    home = Home("scsi0")
    plan = planned(home, 1000)
    assert plan.step is None
    [condition] = plan.conditions
    assert condition.reason == "VolumeMissing"
    assert "scsi1" in condition.message


def test_a_number_is_not_given_out_twice_after_a_record_was_lost() -> None:
    home = Home()
    home.snapshot("scsi0", "holdfast-1-7")
    step = planned(home, 0).step
    assert step is not None
    assert step.point == PointId(1, 8)


def test_a_new_epoch_counts_from_one_again() -> None:
    home = Home()
    home.take(at=NOON)
    home.write("scsi0")
    step = plan_point(protection(), 2, home.scan(), ["beta"], after(60), UTC).step
    assert step is not None
    assert step.point == PointId(2, 1) > PointId(1, 1)


def test_a_pool_that_was_lost_and_made_anew_counts_on_from_what_the_targets_hold() -> None:
    """Else nothing that it takes is ever ahead of them, and the old replica passes for up to date."""
    step = plan_point(protection(), 1, Home().scan(), ["beta"], NOON, UTC, committed=[PointId(1, 50)]).step
    assert step is not None
    assert step.point == PointId(1, 51)


def test_a_target_that_is_found_to_be_ahead_makes_a_point_due_on_an_idle_guest() -> None:
    """It was away when the first point of the new pool was taken; or the owner was rolled back past its last point."""
    home = Home()
    home.take(at=NOON)
    committed = [PointId(1, 50), PointId(1, 1)]
    assert plan_point(protection(), 1, home.scan(), ["beta"], after(1), UTC, committed=committed).unchanged_at is None
    step = plan_point(protection(), 1, home.scan(), ["beta"], after(30), UTC, committed=committed).step
    assert step is not None
    assert step.point == PointId(1, 51)


@pytest.mark.parametrize("committed", [PointId(1, 1), PointId(2, 9)])
def test_what_a_target_holds_of_the_last_point_or_of_another_epoch_makes_none_due(committed: PointId) -> None:
    home = Home()
    home.take(at=NOON)
    assert plan_point(protection(), 1, home.scan(), ["beta"], after(60), UTC, committed=[committed]).step is None


def test_a_target_without_a_point_is_served_before_all_others_then_by_age() -> None:
    home = Home()
    old, new = home.take(at=NOON), home.take(at=after(10))
    one = assignment(rpo=60)
    assert deadline(one, None, UTC) < deadline(one, old, UTC) < deadline(one, new, UTC)
    assert deadline(one, old, UTC) == after(60)
    assert deadline(assignment(rpo=None, schedule="13:00"), old, UTC) == after(3600)


@pytest.mark.parametrize(("took", "due"), [(0, 30), (15, 30), (20, 15), (40, 7.5), (600, 7.5)])
def test_a_target_that_takes_long_gets_its_points_sooner(took: float, due: float) -> None:
    assert due_after(assignment(rpo=60), after(1), UTC, took) == after(due)


def test_no_point_is_taken_while_a_storage_of_the_guest_cannot_be_looked_at() -> None:
    home = Home("scsi0")
    scan = replace(home.scan(), volumes={}, failed={"tank": "no mon answers"})
    found = plan_point(protection(), 1, scan, ["beta"], NOON, UTC)
    assert found.step is None
    assert [(c.reason, "no mon answers" in c.message) for c in found.conditions] == [("StorageFailed", True)]
    elsewhere = replace(home.scan(), failed={"other": "no mon answers"})
    assert plan_point(protection(assignment(slots=["scsi0"])), 1, elsewhere, ["beta"], NOON, UTC).step is not None


def test_a_guest_on_several_pools_is_paused_unless_its_policies_do_without() -> None:
    for slots, pause, expected in (
        (("scsi0", "scsi1"), True, False),
        (("scsi0", "fast0"), True, True),
        (("scsi0", "fast0"), False, False),
    ):
        wanted = protection(replace(assignment(slots=slots), pause=pause))
        step = planned(Home(*slots), 0, wanted).step
        assert step is not None
        assert step.pause is expected


@pytest.mark.parametrize("slots", [("scsi0", "scsi1"), ("scsi0", "fast0")])
def test_a_guest_is_frozen_for_a_policy_that_wants_it_whether_it_is_to_be_paused_or_not(slots: tuple[str, ...]) -> None:
    wanted = protection(replace(assignment(slots=slots), pause=False))
    for wish in Wish:
        occasion = Occasion(policies=("hourly",), asked=wish)
        step = plan_point(wanted, 1, Home(*slots).scan(), [], NOON, UTC, occasion=occasion).step
        assert step is not None
        assert step.freeze is (wish is Wish.FROZEN)
        assert step.pause is (wish is not Wish.NONE and "fast0" in slots)


@pytest.mark.parametrize("still", [Consistency.PAUSED, Consistency.FROZEN])
def test_a_point_over_two_pools_is_paused_or_frozen_if_one_of_its_records_says_so(still: Consistency) -> None:
    home = Home("scsi0", "fast0")
    taken = home.take("scsi0", "fast0").model_copy(update={"consistency": Consistency.NONE})
    stood_still = taken.model_copy(update={"consistency": still})
    assert taken.joined(taken).consistency == Consistency.NONE
    assert taken.joined(stood_still).consistency == stood_still.joined(taken).consistency == still


def _reported(wish: Wish, consistency: Consistency) -> PointReport:
    return PointReport(epoch=1, sequence=1, instant=NOON, consistency=consistency, disks=1, size=1, asked=wish)


def test_a_point_is_as_asked_if_it_is_at_least_that() -> None:
    as_asked = {wish: {c for c in Consistency if _reported(wish, c).as_asked} for wish in Wish}
    assert as_asked == {
        Wish.NONE: set(Consistency),
        Wish.PAUSED: set(Consistency) - {Consistency.NONE},
        Wish.FROZEN: {Consistency.FROZEN},
    }


def test_what_is_half_received_is_no_disk_to_take_a_point_of_though_it_bears_no_mark_yet() -> None:
    """Its node became the owner in the midst of a first stream; zfs recv marks a dataset later than it makes it."""
    home = Home()
    home.change("scsi0", resume_token="1-abc")
    plan = plan_point(protection(), 2, home.scan(), ["beta"], NOON, UTC)
    assert plan.step is None
    assert [c.reason for c in plan.conditions] == ["NotPromoted"]
