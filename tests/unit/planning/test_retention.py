from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.model.keep import Keep, RetentionError
from holdfast.coordinator.planning.retention import apply
from hypothesis import given
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")


def kept(keep: str, times: list[str], zone: ZoneInfo = BERLIN) -> dict[str, str | None]:
    decisions = apply(Keep.parse(keep), [(datetime.fromisoformat(t), t) for t in times], zone)
    assert [d.name for d in decisions] == times
    return {d.name: d.rule for d in decisions if d.keep}


def test_a_period_that_an_earlier_rule_covers_does_not_count() -> None:
    days = [f"2024-05-{day:02}T12:00:00+02:00" for day in range(1, 11)]
    assert kept("last=3,daily=2", days) == {
        "2024-05-10T12:00:00+02:00": "last",
        "2024-05-09T12:00:00+02:00": "last",
        "2024-05-08T12:00:00+02:00": "last",
        "2024-05-07T12:00:00+02:00": "daily",
        "2024-05-06T12:00:00+02:00": "daily",
    }


def test_each_period_keeps_its_newest() -> None:
    times = ["2024-05-01T08:00:00+02:00", "2024-05-01T20:00:00+02:00", "2024-04-30T23:00:00+02:00"]
    assert kept("daily=7", times) == {times[1]: "daily", times[2]: "daily"}


def test_what_a_rule_passed_over_in_its_period_is_not_kept_by_a_later_rule() -> None:
    # both of May 1: the older one had its chance as a day, so the month takes the one of April
    times = ["2024-05-01T20:00:00+02:00", "2024-05-01T08:00:00+02:00", "2024-04-01T08:00:00+02:00"]
    assert kept("daily=1,monthly=1", times) == {times[0]: "daily", times[2]: "monthly"}


def test_items_of_the_same_second_count_once() -> None:
    decisions = apply(Keep(last=2), [(datetime(2024, 5, 1, tzinfo=UTC), name) for name in "abc"], UTC)
    assert [(d.name, d.keep) for d in decisions] == [("a", True), ("b", False), ("c", False)]


def test_weeks_are_iso_weeks() -> None:
    # 2024-12-30 is of week 1 of 2025; the 29th, a Sunday, of week 52
    times = ["2024-12-29T12:00:00+01:00", "2024-12-30T12:00:00+01:00", "2025-01-05T12:00:00+01:00"]
    assert kept("weekly=5", times) == {times[0]: "weekly", times[2]: "weekly"}


def test_days_are_the_nodes_days() -> None:
    times = ["2024-05-01T21:30:00+00:00", "2024-05-01T22:30:00+00:00"]
    assert kept("daily=5", times, BERLIN) == dict.fromkeys(times, "daily")
    assert kept("daily=5", times, ZoneInfo("UTC")) == {times[1]: "daily"}


def test_an_hour_that_comes_twice_is_one_hour() -> None:
    times = ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"]
    assert kept("hourly=5", times) == {times[1]: "hourly"}


@pytest.mark.parametrize("keep", ["all=1", "keep-all=true", "", "last=0", "all=0,daily=0"])
def test_without_a_count_everything_is_kept(keep: str) -> None:
    assert kept(keep, ["2024-05-01T00:00:00+00:00"]) == {"2024-05-01T00:00:00+00:00": "all"}


def test_the_short_form_means_counts() -> None:
    assert Keep.parse("36h/5d/2m") == Keep(hourly=36, daily=5, monthly=2)
    assert Keep.parse("1w/1y") == Keep(weekly=1, yearly=1)


def test_the_prefix_may_be_left_out() -> None:
    assert Keep.parse("keep-last=3,daily=7") == Keep(last=3, daily=7)


@pytest.mark.parametrize(
    "text",
    [
        *("last", "last=", "last=-1", "last=x", "monthly=1,monthly=2", "minutely=3", "all=1,last=2", "all=2", "36h,5d"),
        *("5m/5m", "3x", "36h/", "last=٣", "last=" + "9" * 5000, "keep-keep-last=1", "last=3 daily=4"),
    ],
)
def test_what_is_no_retention_is_refused(text: str) -> None:
    with pytest.raises(RetentionError):
        Keep.parse(text)


@given(st.text(st.sampled_from("keep-lastdaily=0123456789,/hwmy "), max_size=20) | st.text())
def test_the_parser_raises_nothing_but_its_own_error(text: str) -> None:
    with suppress(RetentionError):
        Keep.parse(text)


PERIODS = {
    "last": "%s",
    "hourly": "%Y-%m-%d %H",
    "daily": "%Y-%m-%d",
    "weekly": "%G %V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}

keeps = st.builds(Keep, **{rule: st.integers(0, 4) for rule in PERIODS})
start = datetime(2023, 12, 20, tzinfo=UTC)
times = st.lists(st.integers(0, 500 * 24 * 12).map(lambda n: start + timedelta(minutes=5 * n)), max_size=60)


@given(keeps, times)
def test_it_agrees_with_the_definition(keep: Keep, instants: list[datetime]) -> None:
    """Rule by rule over sets: the newest of each period that nothing kept lies in, for so many periods."""
    unique = sorted(set(instants), reverse=True)
    undecided, expected = list(unique), dict.fromkeys([], "")
    for rule, pattern in PERIODS.items():
        count = getattr(keep, rule)
        if not count:
            continue
        periods = {t: t.astimezone(BERLIN).strftime(pattern) for t in unique}
        covered = {periods[t] for t in expected}
        chosen: list[str] = []
        for t in list(undecided):
            if periods[t] in covered:
                continue
            if periods[t] not in chosen:
                if len(chosen) == count:
                    break
                chosen.append(periods[t])
                expected[t] = rule
            undecided.remove(t)
    decisions = apply(keep, [(t, "") for t in instants], BERLIN)
    if not keep.counts():
        assert all(d.keep for d in decisions)
        return
    assert {d.time: d.rule for d in decisions if d.keep} == expected


@given(keeps, times, st.randoms())
def test_the_order_of_the_items_does_not_matter(keep: Keep, instants: list[datetime], random: object) -> None:
    shuffled = list(dict.fromkeys(instants))
    before = {d.time: d.rule for d in apply(keep, [(t, "") for t in shuffled], BERLIN)}
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {d.time: d.rule for d in apply(keep, [(t, "") for t in shuffled], BERLIN)} == before
