"""When something that repeats falls due next. Pure."""

from datetime import datetime, timedelta, tzinfo

from holdfast.coordinator.proxmox.calendar import CalendarEvent


def next_on_grid(last: datetime, width: float) -> datetime:
    """The first moment after `last` that is a multiple of `width` seconds since 1970: equal spans fall due together."""
    due = datetime.fromtimestamp((last.timestamp() // width + 1) * width, last.tzinfo)
    return due if due > last else due + timedelta(seconds=width)  # an odd width, rounded to the microsecond of `last`


def next_due(last: datetime, schedule: str | None, every: float | None, zone: tzinfo) -> datetime | None:
    """By a calendar event read in `zone`, else by a span of seconds; None if it never comes again."""
    if schedule is not None:
        return CalendarEvent.parse(schedule).next_after(last, zone)
    assert every is not None, "one of the two is given"
    return next_on_grid(last, every)
