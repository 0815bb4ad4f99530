from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.report import GuestReport, PointReport
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.planning.missing import missing_snapshots
from unit.planning.made import NOON, protection

HOURLY = SnapshotPolicy.model_validate({"selector": {"all": True}, "schedule": "hourly", "keep": "last=3"})


def said(*taken: datetime, now: datetime) -> list[str]:
    points = tuple(
        PointReport(
            epoch=1, sequence=n, instant=at, consistency=Consistency.ATOMIC, disks=1, size=1, policies=("hourly",)
        )
        for n, at in enumerate(taken, 1)
    )
    wanted = replace(protection(), snapshots={"hourly": HOURLY})
    return [c.message for c in missing_snapshots(wanted, GuestReport(epoch=1, points=points), now, UTC)]


@pytest.mark.parametrize(("minutes", "count"), [(0, 0), (60, 0), (119, 0), (120, 1), (600, 1)])
def test_a_policy_misses_its_snapshots_once_a_whole_period_has_passed(minutes: int, count: int) -> None:
    assert len(said(NOON - timedelta(hours=1), NOON, now=NOON + timedelta(minutes=minutes))) == count


def test_it_is_told_since_when_or_that_there_was_never_one() -> None:
    assert (
        "has had no snapshot since 2026-01-02T12:00:00+00:00 for policy hourly"
        in said(NOON, now=NOON.replace(day=3))[0]
    )
    assert "has no snapshot yet for policy hourly" in said(now=NOON)[0]
