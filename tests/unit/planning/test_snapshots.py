"""When policies and people want a point, and what keeps them from it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy, Wish, least_free
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Space
from holdfast.coordinator.planning.protection import PointPlan, plan_point
from holdfast.coordinator.planning.snapshots import Occasion, plan_snapshots
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, Home, protection


def policy(**fields: object) -> SnapshotPolicy:
    return SnapshotPolicy.model_validate({"selector": {"all": True}, "keep": "last=3", **fields})


PREFIX = re.compile(r"\A(?:[a-z][a-z0-9]{0,15})?\Z", re.ASCII)
HOURLY = policy(schedule="hourly")


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def snapshotted(assigned: bool = False, **policies: SnapshotPolicy) -> Protection:
    made = protection()
    return replace(made, assignments=made.assignments if assigned else (), snapshots=policies)


def occasion(
    home: Home, now: datetime, requests: Mapping[str, Request] | None = None, **policies: SnapshotPolicy
) -> Occasion:
    return plan_snapshots(snapshotted(**policies), home.scan(now), requests or {}, now, UTC)


def plan(home: Home, now: datetime, *, assigned: bool = False, **policies: SnapshotPolicy) -> PointPlan:
    wanted = snapshotted(assigned, **policies)
    scan = home.scan(now)
    why = plan_snapshots(wanted, scan, {}, now, UTC)
    return plan_point(wanted, 1, scan, ["beta"] if assigned else [], now, UTC, occasion=why)


def test_a_guest_without_any_snapshot_of_a_policy_gets_one_at_once_which_is_not_late() -> None:
    found = occasion(Home(), after(17), hourly=HOURLY)
    assert found.policies == ("hourly",)
    assert not found.late


def test_the_next_falls_due_when_the_event_comes() -> None:
    home = Home()
    home.take(at=after(17), policies=("hourly",))
    assert not occasion(home, after(59), hourly=HOURLY)
    assert occasion(home, after(59), hourly=HOURLY).due == after(60)
    found = occasion(home, after(60), hourly=HOURLY)
    assert (found.policies, found.late) == (("hourly",), False)


def test_an_interval_is_counted_from_1970_so_that_guests_meet() -> None:
    home = Home()
    home.take(at=after(17), policies=("often",))
    assert occasion(home, after(20), often=policy(every="15m")).due == after(30)


def test_runs_that_were_missed_are_one_point_and_it_is_late() -> None:
    home = Home()
    home.take(at=NOON, policies=("hourly",))
    found = occasion(home, after(60 * 7 + 20), hourly=HOURLY)
    assert (found.policies, found.late) == (("hourly",), True)
    home.take(at=after(60 * 7 + 20), policies=found.policies, late=True)
    assert occasion(home, after(60 * 7 + 21), hourly=HOURLY).due == after(60 * 8)


def test_what_falls_due_at_one_instant_for_several_policies_is_one_point_with_the_strictest_wish() -> None:
    home = Home()
    home.take(at=after(1), policies=("hourly", "often", "daily"))
    policies = {
        "daily": policy(schedule="daily", prefix="d"),
        "hourly": policy(schedule="hourly", prefix="h", consistency="paused"),
        "often": policy(every="30m", prefix="o", consistency="frozen"),
    }
    found = occasion(home, after(60), **policies)
    assert found.policies == ("hourly", "often")
    assert (found.prefix, found.asked) == ("h", Wish.FROZEN)


def test_a_point_dated_by_a_clock_that_was_set_back_does_not_stop_the_policy() -> None:
    home = Home()
    home.take(at=after(60 * 24 * 30), policies=("hourly",))
    assert occasion(home, NOON, hourly=HOURLY).policies == ("hourly",)


def test_with_too_little_room_no_policy_takes_any_and_says_so_and_a_person_gets_hers() -> None:
    home = Home()
    scan = replace(home.scan(), space={"tank": Space(9 << 30, 100 << 30)})
    wanted = snapshotted(hourly=HOURLY, low=policy(every="1h", min_free="5G"))
    found = plan_snapshots(wanted, scan, {}, NOON, UTC)
    assert found.policies == ("low",)
    assert [c.reason for c in found.conditions] == ["FreeSpaceGuard"]
    assert "10%" in found.conditions[0].message
    assert found.due == after(1)
    asked = {"r1": Request(action="snapshot", vmid=VMID, asked=NOON, note="before the upgrade")}
    found = plan_snapshots(snapshotted(hourly=HOURLY), scan, asked, NOON, UTC)
    assert (found.policies, found.request, found.note) == ((), "r1", "before the upgrade")


def test_a_request_is_answered_by_the_point_that_bears_its_name() -> None:
    home = Home()
    asked = {
        "r2": Request(action="snapshot", vmid=VMID, asked=after(1)),
        "r1": Request(action="snapshot", vmid=VMID, asked=NOON),
        "r3": Request(action="snapshot", vmid=102, asked=NOON),
        "r0": Request(action="replicate", vmid=VMID, asked=NOON),
    }
    for expected in ("r1", "r2", None):
        found = occasion(home, after(2), asked)
        assert found.request == expected
        home.take(at=after(2), request=found.request)


def test_a_guest_with_snapshot_policies_and_no_replication_gets_its_points() -> None:
    home = Home()
    step = plan(home, NOON, hourly=HOURLY).step
    assert step is not None
    assert (step.point, step.snapshot, step.occasion.policies) == (PointId(1, 1), "holdfast-1-1", ("hourly",))
    assert [dataset for _, _, dataset in step.disks] == ["tank/vm-101-scsi0", "tank/vm-101-scsi1"]


def test_without_any_policy_nothing_is_taken_and_nothing_complained_of() -> None:
    assert plan(Home("scsi0"), NOON) == PointPlan(None)


def test_what_is_due_for_a_policy_and_for_replication_is_one_point() -> None:
    home = Home()
    home.take(at=after(59), policies=("hourly",))
    home.write("scsi0")
    step = plan(home, after(60), assigned=True, hourly=HOURLY).step
    assert step is not None
    assert step.occasion.policies == ("hourly",)
    home.write("scsi0")
    home.take(at=after(60), policies=("hourly",))
    assert plan(home, after(60.1), assigned=True, hourly=HOURLY).step is None, "replication has it as well"


def test_a_policys_point_does_not_wait_for_a_target() -> None:
    home = Home()
    wanted = snapshotted(True, hourly=HOURLY)
    why = plan_snapshots(wanted, home.scan(), {}, NOON, UTC)
    assert plan_point(wanted, 1, home.scan(), [], NOON, UTC, occasion=why).step is not None


def test_the_next_look_is_at_whichever_falls_due_first() -> None:
    home = Home()
    home.write("scsi0")
    home.take(at=after(59.75), policies=("hourly",))
    home.write("scsi0")
    assert plan(home, after(59.8), assigned=True, hourly=HOURLY).due == after(60)


def test_a_prefix_stands_in_the_snapshots_names() -> None:
    step = plan(Home(), NOON, hourly=policy(every="1h", prefix="auto1")).step
    assert step is not None
    assert step.snapshot == "holdfast-auto1-1-1"
    assert PointId.of_snapshot(step.snapshot) == PointId(1, 1)


@given(epoch=st.integers(1, 2**53), sequence=st.integers(1, 2**53), prefix=st.from_regex(PREFIX))
def test_the_number_is_read_back_from_any_name(epoch: int, sequence: int, prefix: str) -> None:
    id = PointId(epoch, sequence)
    assert PointId.of_snapshot(id.snapshot_with(prefix)) == id


@pytest.mark.parametrize(
    ("text", "bytes_"), [("10%", 100), ("0%", 0), ("2.5%", 25), ("1K", 1024), ("1.5 MiB", 3 << 19), ("2TB", 2 << 40)]
)
def test_floors_of_free_space_are_read(text: str, bytes_: int) -> None:
    assert least_free(text, 1000) == bytes_


@pytest.mark.parametrize("text", ["", "10", "100%", "-1%", "ten%", "1X", "1e3%", "10%\n"])
def test_what_is_no_floor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="free space"):
        least_free(text, 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": None}, {"schedule": "hourly", "every": "1h"}, {"schedule": "every day"}, {"every": 1},
        {"every": "1h", "keep": {}}, {"every": "1h", "keep": ""}, {"every": "1h", "replicas": "last=0"},
        {"every": "1h", "prefix": "Auto"}, {"every": "1h", "prefix": "a-b"}, {"every": "1h", "consistency": "perhaps"},
        {"every": "1h", "keep": "36h/5x"}, {"every": "1h", "unknown": 1},
    ],
)  # fmt: skip
def test_a_policy_with_a_mistake_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SnapshotPolicy"):
        policy(**wrong)
