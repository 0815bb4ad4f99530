"""Snapshot policies that have not had what they should, as any reader of the reports finds it. Pure."""

from datetime import datetime, tzinfo

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.report import GuestReport
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.due import next_due

MISSING = "SnapshotsMissing"


def missing_snapshots(protection: Protection, report: GuestReport, now: datetime, zone: tzinfo) -> list[Condition]:
    """Policies without any snapshot of the guest, or with none for a whole period (the next but one has come)."""
    found = []
    for name, policy in sorted(protection.snapshots.items()):
        instants = [point.instant for point in report.points if name in point.policies]
        if not instants:
            found.append(_missing(protection.vmid, name, "has no snapshot yet"))
            continue
        last = max(instants)
        due = next_due(last, policy.schedule, policy.every, zone)
        following = next_due(due, policy.schedule, policy.every, zone) if due else None
        if following is not None and following <= now:
            found.append(
                _missing(protection.vmid, name, f"has had no snapshot since {last.isoformat(timespec='seconds')}")
            )
    return found


def _missing(vmid: int, policy: str, what: str) -> Condition:
    return Condition(
        reason=MISSING,
        message=f"Guest {vmid} {what} for policy {policy}. The conditions beside this say why, else the log of its"
        " owner's agent.",
    )
