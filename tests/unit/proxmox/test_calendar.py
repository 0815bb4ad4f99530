from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.proxmox.calendar import CalendarError, CalendarEvent
from hypothesis import given
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")
THURSDAY = datetime(1970, 1, 1, tzinfo=UTC)


def fires(expression: str, after: str, zone: ZoneInfo = BERLIN, count: int = 1) -> list[str]:
    event, instant, found = CalendarEvent.parse(expression), datetime.fromisoformat(after), []
    for _ in range(count):
        following = event.next_after(instant, zone)
        if following is None:
            break
        instant = following
        found.append(instant.astimezone(zone).isoformat())
    return found


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0", "2024-05-01T00:00:00+00:00", "2024-05-01T01:00:00+00:00"),
        ("*", "2024-05-01T00:00:00+00:00", "2024-05-01T00:01:00+00:00"),
        ("*:*:*", "2024-05-01T00:00:00+00:00", "2024-05-01T00:00:01+00:00"),
        ("*:3:5", "2024-05-01T00:00:00+00:00", "2024-05-01T00:03:05+00:00"),
        ("30:15", "2024-05-01T00:00:00+00:00", "2024-05-01T00:30:15+00:00"),
        ("mon..fri 22", "2024-05-03T21:59:00+00:00", "2024-05-03T22:22:00+00:00"),
        ("mon..fri 22", "2024-05-03T23:22:00+00:00", "2024-05-06T00:22:00+00:00"),
        ("fri..mon 2:50", "2024-05-06T02:50:00+00:00", "2024-05-10T02:50:00+00:00"),
        ("tue", "2024-05-01T00:00:00+00:00", "2024-05-07T00:00:00+00:00"),
        ("MonDay,wed", "2024-05-02T00:00:00+00:00", "2024-05-06T00:00:00+00:00"),
        ("mon22", "2024-05-06T00:00:00+00:00", "2024-05-06T00:22:00+00:00"),
        ("4..10/2:0", "2024-05-01T05:00:00+00:00", "2024-05-01T06:00:00+00:00"),
        ("4..10/2:0", "2024-05-01T11:00:00+00:00", "2024-05-02T04:00:00+00:00"),
        ("6,4..10:23,5/5", "2024-05-01T00:00:00+00:00", "2024-05-01T04:05:00+00:00"),
        ("2/3", "2024-05-01T00:00:00+00:00", "2024-05-01T00:02:00+00:00"),
        ("2/3", "2024-05-01T00:59:00+00:00", "2024-05-01T01:02:00+00:00"),
        ("02-29", "2024-03-01T00:00:00+00:00", "2028-02-29T00:00:00+00:00"),
        ("2024,2026-12-31 12:30", "2025-01-01T00:00:00+00:00", "2026-12-31T12:30:00+00:00"),
        ("sat 2-29 1:00", "2024-01-01T00:00:00+00:00", "2048-02-29T01:00:00+00:00"),
        ("minutely", "2024-05-01T00:00:30+00:00", "2024-05-01T00:01:00+00:00"),
        ("hourly", "2024-05-01T00:00:00+00:00", "2024-05-01T01:00:00+00:00"),
        ("daily", "2024-05-01T00:00:01+00:00", "2024-05-02T00:00:00+00:00"),
        ("weekly", "2024-05-01T00:00:00+00:00", "2024-05-06T00:00:00+00:00"),
        ("monthly", "2024-05-01T00:00:00+00:00", "2024-06-01T00:00:00+00:00"),
        ("quarterly", "2024-05-01T00:00:00+00:00", "2024-07-01T00:00:00+00:00"),
        ("semi-annually", "2024-07-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("annually", "2024-07-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("daily UTC", "2024-05-01T00:00:00+00:00", "2024-05-02T00:00:00+00:00"),
        # what Proxmox does with steps that do not divide their period
        ("*/45", "2024-05-01T00:45:00+00:00", "2024-05-01T01:45:00+00:00"),
        ("*/7", "2024-05-01T00:56:00+00:00", "2024-05-01T01:07:00+00:00"),
        ("*/5:0", "2024-05-01T20:00:00+00:00", "2024-05-02T05:00:00+00:00"),
        ("*/5-1", "2024-11-01T00:00:00+00:00", "2025-06-01T00:00:00+00:00"),
        ("5/0", "2024-05-01T00:05:00+00:00", "2024-05-01T01:05:00+00:00"),
    ],
)
def test_an_expression_fires_when_proxmox_says(expression: str, after: str, expected: str) -> None:
    assert fires(expression, after, ZoneInfo("UTC")) == [expected]


@pytest.mark.parametrize("expression", ["2021-02-29", "02-30", "2000-1-1", "0/1999-02-30"])
def test_a_date_that_never_comes_gives_none(expression: str) -> None:
    assert fires(expression, "2024-01-01T00:00:00+00:00") == []


def test_the_last_second_of_the_calendar_has_no_successor() -> None:
    assert fires("*:*:*", "9999-12-31T23:59:59+00:00", ZoneInfo("UTC")) == []


def test_utc_is_read_in_utc_wherever_the_node_is() -> None:
    assert fires("mon 12:00 UTC", "2024-05-01T00:00:00+02:00") == ["2024-05-06T14:00:00+02:00"]


def test_a_reading_that_the_clocks_skip_does_not_fire_that_day() -> None:
    assert fires("2:30", "2024-03-30T12:00:00+01:00") == ["2024-04-01T02:30:00+02:00"]
    assert fires("*/30", "2024-03-31T01:30:00+01:00", count=2) == [
        "2024-03-31T03:00:00+02:00",
        "2024-03-31T03:30:00+02:00",
    ]


def test_a_reading_that_comes_twice_fires_the_first_time() -> None:
    assert fires("2:30", "2024-10-26T12:00:00+02:00", count=2) == [
        "2024-10-27T02:30:00+02:00",
        "2024-10-28T02:30:00+01:00",
    ]
    assert fires("*/30", "2024-10-27T02:00:00+02:00", count=2) == [
        "2024-10-27T02:30:00+02:00",
        "2024-10-27T03:00:00+01:00",
    ]


def test_asked_from_within_the_second_coming_it_stays_there() -> None:
    assert fires("*/30", "2024-10-27T02:10:00+01:00") == ["2024-10-27T02:30:00+01:00"]


def test_a_midnight_that_does_not_exist_is_skipped() -> None:
    assert fires("daily", "2024-09-07T12:00:00-04:00", ZoneInfo("America/Santiago")) == ["2024-09-09T00:00:00-03:00"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "UTC", " 5", "5 ", "60", "24:60", "5:70", "*/60", "*/0", "*,5", "5,*", "5,", "10..5", "5..", "1:2:3:4"),
        *("x", "mon..", "mon,", "mo", "Daily", "daily 5", "13-1", "1-32", "2200-1-1", "0x5", "٣", "9" * 5000, "5\n"),
    ],
)
def test_what_proxmox_refuses_is_refused(text: str) -> None:
    with pytest.raises(CalendarError):
        CalendarEvent.parse(text)


@given(st.text(st.sampled_from("0123456789*/.,:- monfriUTCdailysu"), max_size=24) | st.text())
def test_the_parser_raises_nothing_but_its_own_error(text: str) -> None:
    with suppress(CalendarError):
        CalendarEvent.parse(text).next_after(THURSDAY, BERLIN)


# --- against a search by brute force. Steps divide their period: for others Proxmox differs (see above).

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def field(size: int, steps: tuple[int, ...]) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    number = st.integers(0, size - 1)
    everything = frozenset(range(size))
    one = number.map(lambda n: (str(n), frozenset({n})))
    span = st.tuples(number, number).map(sorted).map(lambda r: (f"{r[0]}..{r[1]}", frozenset(range(r[0], r[1] + 1))))
    step = st.sampled_from(steps).map(lambda s: (f"*/{s}", frozenset(range(0, size, s))))
    listed = st.lists(one | span, min_size=1, max_size=3).map(
        lambda parts: (",".join(text for text, _ in parts), frozenset().union(*(values for _, values in parts)))
    )
    return st.just(("*", everything)) | step | listed


@st.composite
def events(draw: st.DrawFn) -> tuple[str, frozenset[int], frozenset[int], frozenset[int]]:
    hour_text, hours = draw(field(24, (2, 3, 6, 12)))
    minute_text, minutes = draw(field(60, (5, 15, 20, 30)))
    first, last = draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    if draw(st.booleans()):
        weekdays = frozenset((first + n) % 7 for n in range((last - first) % 7 + 1))
        return f"{WEEKDAYS[first]}..{WEEKDAYS[last]} {hour_text}:{minute_text}", weekdays, hours, minutes
    return f"{hour_text}:{minute_text}", frozenset(range(7)), hours, minutes


CHANGES = [  # the instants at which clocks change
    ("Europe/Berlin", "2024-03-31T01:00:00+00:00"),
    ("Europe/Berlin", "2024-10-27T01:00:00+00:00"),
    ("America/New_York", "2024-03-10T07:00:00+00:00"),
    ("America/New_York", "2024-11-03T06:00:00+00:00"),
    ("Australia/Lord_Howe", "2024-04-06T15:00:00+00:00"),
    ("Australia/Lord_Howe", "2024-10-05T15:30:00+00:00"),
    ("America/Santiago", "2024-09-08T04:00:00+00:00"),
    ("Asia/Kathmandu", "2024-06-01T00:00:00+00:00"),
    ("UTC", "2024-12-31T23:00:00+00:00"),
]


@given(events(), st.sampled_from(CHANGES), st.integers(-6 * 60, 4 * 60))
def test_it_agrees_with_a_search_minute_by_minute(
    event: tuple[str, frozenset[int], frozenset[int], frozenset[int]], change: tuple[str, str], offset: int
) -> None:
    text, weekdays, hours, minutes = event
    zone = ZoneInfo(change[0])
    after = datetime.fromisoformat(change[1]) + timedelta(minutes=offset)
    within_second_coming = after.astimezone(zone).fold == 1
    horizon = after + timedelta(hours=12)
    minute = after
    while (minute := minute + timedelta(minutes=1)) <= horizon:
        local = minute.astimezone(zone)
        if local.fold and not within_second_coming:
            continue
        if local.weekday() in weekdays and local.hour in hours and local.minute in minutes:
            assert CalendarEvent.parse(text).next_after(after, zone) == minute
            return
    following = CalendarEvent.parse(text).next_after(after, zone)
    assert following is None or following > horizon


@given(events(), st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.sampled_from(CHANGES))
def test_it_is_strictly_after_and_in_whole_seconds(
    event: tuple[str, frozenset[int], frozenset[int], frozenset[int]], naive: datetime, change: tuple[str, str]
) -> None:
    after = naive.replace(tzinfo=timezone(timedelta(hours=3)))
    following = CalendarEvent.parse(event[0]).next_after(after, ZoneInfo(change[0]))
    assert following is None or (following > after and following.microsecond == 0)
