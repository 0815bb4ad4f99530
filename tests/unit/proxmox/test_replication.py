from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.proxmox.calendar import CalendarError
from holdfast.coordinator.proxmox.replication import ReplicationConfig, next_sync
from hypothesis import given
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")
LAST = datetime(2024, 5, 1, 10, 7, tzinfo=UTC)


def test_a_job_is_read() -> None:
    config = ReplicationConfig.parse(
        b"local: 101-0\n\ttarget pve2\n\tschedule mon..fri 22:00\n\trate 12.5\n"
        b"\tsource pve1\n\tcomment a%3Ab\n\tdisable\n"
    )
    job = config.jobs["101-0"]
    assert (job.guest, job.number, job.target, job.source) == (101, 0, "pve2", "pve1")
    assert (job.schedule, job.rate, job.comment, job.disabled) == ("mon..fri 22:00", 12.5, "a:b", True)
    assert config.warnings == []


def test_a_job_without_schedule_runs_every_quarter_of_an_hour() -> None:
    assert ReplicationConfig.parse(b"local: 101-0\n\ttarget pve2\n").jobs["101-0"].schedule == "*/15"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("local: 99-0\n\ttarget a\n", [1]),
        ("local: x-0\n\ttarget a\n", [1, 2]),
        ("remote: 101-0\n\ttarget a\n", [1]),
        ("local: 101-0\n\tschedule 5\n", [1]),
        ("local: 101-0\n\ttarget a_b\n", [1, 2]),
    ],
)
def test_what_is_no_job_is_skipped(text: str, lines: list[int]) -> None:
    config = ReplicationConfig.parse(text.encode())
    assert config.jobs == {}
    assert [w.line for w in config.warnings] == lines


def test_a_bad_schedule_is_dropped_and_the_default_holds() -> None:
    config = ReplicationConfig.parse(b"local: 101-0\n\ttarget a\n\tschedule whenever\n\trate 0.5\n")
    assert (config.jobs["101-0"].schedule, config.jobs["101-0"].rate) == ("*/15", None)
    assert [w.line for w in config.warnings] == [3, 4]


def test_numbers_lose_their_leading_zeros() -> None:
    assert list(ReplicationConfig.parse(b"local: 0101-00\n\ttarget a\n").jobs) == ["101-0"]


def test_one_job_per_guest_and_target() -> None:
    config = ReplicationConfig.parse(
        b"local: 101-1\n\ttarget a\n\nlocal: 101-0\n\ttarget a\n\nlocal: 102-0\n\ttarget a\n"
    )
    assert set(config.jobs) == {"101-0", "102-0"}
    assert [w.line for w in config.warnings] == [1]


def test_a_job_that_works_follows_its_schedule() -> None:
    assert next_sync("*/15", LAST, 0, BERLIN) == datetime(2024, 5, 1, 10, 15, tzinfo=UTC)
    assert next_sync("13:00", LAST, 0, BERLIN) == datetime(2024, 5, 1, 11, 0, tzinfo=UTC)
    assert next_sync("", LAST, 0, BERLIN) == datetime(2024, 5, 1, 10, 15, tzinfo=UTC)
    assert next_sync("2020-1-1", LAST, 0, BERLIN) is None


@pytest.mark.parametrize(("failures", "minutes"), [(1, 5), (2, 10), (3, 15), (4, 30), (5, 30), (1000, 30)])
def test_a_job_that_fails_backs_off(failures: int, minutes: int) -> None:
    assert next_sync("*/15", LAST, failures, BERLIN) == LAST + timedelta(minutes=minutes)


def test_an_offline_target_is_not_tried_again() -> None:
    assert next_sync("*/15", LAST, 1, BERLIN, target_online=False) is None
    assert next_sync("*/15", LAST, 0, BERLIN, target_online=False) is not None


def test_a_bad_schedule_is_an_error() -> None:
    with pytest.raises(CalendarError):
        next_sync("whenever", LAST, 0, BERLIN)


@given(
    st.lists(
        st.sampled_from(["local: 101-0", "\ttarget a", "\tschedule */5", "", "x", "\tcomment %ff", "\tdisable 0"])
        | st.text(max_size=8)
    ).map("\n".join)
)
def test_nothing_is_raised(text: str) -> None:
    with suppress(UnicodeEncodeError):
        ReplicationConfig.parse(text.encode())
