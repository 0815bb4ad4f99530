"""pvesr: replication.cfg and when its jobs run.

Source of the rules: the behaviour of PVE::ReplicationConfig and PVE::ReplicationState.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from urllib.parse import unquote_to_bytes

from . import sections, values
from .calendar import CalendarError, CalendarEvent
from .sections import Finding, Section
from .values import Check

DEFAULT_SCHEDULE = "*/15"

_HEADER = re.compile(r"(\S+):\s*([0-9]{1,18})-([0-9]{1,18})\s*", re.ASCII)
# minutes to wait after so many failures in a row; then half an hour
_BACK_OFF = {1: 5, 2: 10, 3: 15}
_LONGEST_BACK_OFF = 30


@dataclass(frozen=True)
class Job:
    """One replication job; `rate` is in MB/s."""

    id: str
    guest: int
    number: int
    target: str
    line: int
    schedule: str = DEFAULT_SCHEDULE
    rate: float | None = None
    source: str | None = None
    comment: str | None = None
    disabled: bool = False
    remove: str | None = None  # local or full: the job is being taken away


@dataclass
class ReplicationConfig:
    """A parsed replication.cfg."""

    jobs: dict[str, Job] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> "ReplicationConfig":
        """Read a replication.cfg. Nothing in it is an error: what Proxmox would pass over is in `warnings`."""
        config = cls()
        file = sections.read(sections.decode(data), _header)
        config.warnings.extend(file.ignored)
        for section in file.sections:
            config._take(section)
        config._one_job_per_target()
        config.warnings.sort(key=lambda finding: finding.line)
        return config

    def _take(self, section: Section) -> None:
        guest, number = (int(part) for part in section.id.split("-"))
        if section.type != "local":
            self._warn(section, f"unsupported type {section.type!r}")
            return
        if guest < 100:
            self._warn(section, "guest IDs below 100 are reserved")
            return
        self.warnings.extend(section.ignored)
        self.jobs.pop(section.id, None)
        taken, found = sections.take(section, _PROPERTIES)
        self.warnings.extend(found)
        if "target" not in taken:
            self._warn(section, "missing value for required option 'target'")
            return
        self.jobs[section.id] = Job(
            section.id,
            guest,
            number,
            taken["target"],
            section.line,
            taken.get("schedule", DEFAULT_SCHEDULE),
            taken.get("rate"),
            taken.get("source"),
            taken.get("comment"),
            taken.get("disable", False),
            taken.get("remove_job"),
        )

    def _one_job_per_target(self) -> None:
        seen: set[tuple[int, str]] = set()
        for job in sorted(self.jobs.values(), key=lambda job: job.id):
            if (job.guest, job.target) in seen:
                del self.jobs[job.id]
                message = f"job {job.id!r} is not used: another one replicates guest {job.guest} to {job.target!r}"
                self.warnings.append(Finding(job.line, message))
            seen.add((job.guest, job.target))

    def _warn(self, section: Section, reason: str) -> None:
        self.warnings.append(Finding(section.line, f"skip section {section.id!r}: {reason}"))


def _header(line: str) -> tuple[str, str] | None:
    match = _HEADER.fullmatch(line)
    return None if match is None else (sections.lower(match[1]), f"{int(match[2])}-{int(match[3])}")


def _schedule(value: str) -> str:
    try:
        CalendarEvent.parse(value)
    except CalendarError as error:
        raise values.ValueRefused(str(error)) from None
    values.at_most(128)(value)
    return value


def _rate(value: str) -> float:
    rate = values.number(value)
    if rate < 1:
        raise values.ValueRefused(f"{value} is less than 1")
    return rate


def _comment(value: str) -> str:
    return unquote_to_bytes(sections.encode(values.at_most(4096)(value))).decode("utf-8", "replace")


_PROPERTIES: dict[str, Check] = {
    "target": values.node,
    "disable": values.boolean,
    "comment": _comment,
    "rate": _rate,
    "schedule": _schedule,
    "remove_job": values.one_of("local", "full"),
    "source": values.node,
}


def next_sync(
    schedule: str, last_try: datetime, failures: int, zone: tzinfo, *, target_online: bool = True
) -> datetime | None:
    """Return when a job is tried next, in UTC; None if it is not.

    After a failure the schedule does not count: the job is tried 5, 10 and 15 minutes after its last try, from the
    fourth failure on every 30, and not at all while its target is offline. Raises CalendarError.
    """
    if failures > 0:
        wait = timedelta(minutes=_BACK_OFF.get(failures, _LONGEST_BACK_OFF))
        return last_try.astimezone(UTC) + wait if target_online else None
    return CalendarEvent.parse(schedule or DEFAULT_SCHEDULE).next_after(last_try, zone)
