"""Points of snapshot policies that are not there any more, as any reader of the reports finds them. Pure."""

from collections import Counter

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.report import GuestReport
from holdfast.coordinator.planning.desired import Desired

ORPHANED = "PolicyDeleted"


def orphaned_points(vmid: int, desired: Desired, report: GuestReport) -> list[Condition]:
    """One for each policy that was deleted and has points where the guest runs: they stay until somebody says so."""
    left = Counter(name for point in report.points for name in point.policies)
    unreadable = {problem.key for problem in desired.problems}
    return [
        Condition(
            reason=ORPHANED,
            message=f"{count} points of guest {vmid} were taken for snapshot policy {name}, which has been deleted. No"
            f" rule lets go of them, so they stay: holdfast snapshot delete {vmid} --policy {name} destroys those that"
            " were taken for it alone. Or apply the policy again.",
        )
        for name, count in sorted(left.items())
        if name not in desired.snapshot_policies and f"desired/policies/{name}" not in unreadable
    ]
