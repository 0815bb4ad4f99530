"""Which recovery points stay on a node by rule: those that snapshot policies and people want kept. Pure.

Guards invariant 3, nothing lost: a point that was taken for policies goes only when each of them is known and lets it
go. One whose policy has been deleted, or that a person had taken, stays until its deletion is asked for. What
replication needs stays besides (`leftovers`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning import retention
from holdfast.coordinator.planning.assignment import Assignment, Protection
from holdfast.coordinator.planning.desired import Desired

ASKED_FOR = "asked for"
"""The reason for which a point stays that a person had taken."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force on one node for one guest."""

    policies: Mapping[str, Keep] = field(default_factory=dict)
    """Snapshot policy → what it keeps of its own points."""
    deleted: frozenset[tuple[PointId, datetime]] = frozenset()
    """Points whose deletion has been asked for."""
    every_point: Keep | None = None
    """On a replica: what the target keeps of all points."""
    zone: tzinfo = UTC
    """Periods are read in it."""
    at_targets: Mapping[str, "Rules"] = field(default_factory=dict)
    """On the owner: what is in force on each target."""

    def lets_go(self, point: RecoveryPoint) -> bool:
        """Whether its deletion has been asked for."""
        return (point.id, point.instant) in self.deleted


NO_RULES = Rules()


def on_owner(desired: Desired, protection: Protection, zone: tzinfo) -> Rules:
    """Where the guest runs."""
    policies = {name: policy.keep for name, policy in desired.snapshot_policies.items()}
    targets = {a.node: on_replica(desired, a, zone) for a in protection.assignments}
    return Rules(policies, _deleted(desired, protection.vmid), None, zone, targets)


def on_replica(desired: Desired, assignment: Assignment, zone: tzinfo) -> Rules:
    """On a node that the guest is replicated to."""
    policies = {name: policy.keep_on_replicas for name, policy in desired.snapshot_policies.items()}
    return Rules(policies, _deleted(desired, assignment.vmid), assignment.keep, zone)


def _deleted(desired: Desired, vmid: int) -> frozenset[tuple[PointId, datetime]]:
    return frozenset(
        (PointId(request.point.epoch, request.point.sequence), request.point.instant)
        for request in desired.requests.values()
        if request.vmid == vmid and request.point is not None
    )


def kept(
    points: Iterable[RecoveryPoint], rules: Rules, whole: Collection[PointId] | None = None
) -> dict[PointId, tuple[str, ...]]:
    """Those that stay, each with why: the policies by name, or words.

    `whole`: the complete ones, if others are among them. What is left of a point stays as a rule says, but none that is
    whole goes for it: after a clock was set back, fragments can be the newest for long.
    """
    found: defaultdict[PointId, list[str]] = defaultdict(list)
    left = [point for point in points if not rules.lets_go(point)]
    fragments = whole is not None and any(point.id not in whole for point in left)
    of_policy: defaultdict[str, list[RecoveryPoint]] = defaultdict(list)
    for point in left:
        if point.request is not None:
            found[point.id].append(ASKED_FOR)
        for name in point.policies:
            of_policy[name].append(point)
    for name, theirs in sorted(of_policy.items()):
        keep = rules.policies.get(name)
        if keep is None:
            for point in theirs:
                found[point.id].append(f"{name} (deleted)")
        else:
            for id in sorted(_by(keep, theirs, rules.zone, whole if fragments else None)):
                found[id].append(name)
    if rules.every_point is not None:
        for id in sorted(_by(rules.every_point, left, rules.zone, whole if fragments else None)):
            found[id].append(f"keep {rules.every_point}")
    return {id: tuple(why) for id, why in found.items()}


def _by(
    keep: Keep, points: Sequence[RecoveryPoint], zone: tzinfo, whole: Collection[PointId] | None = None
) -> set[PointId]:
    decisions = retention.apply(keep, [(point.instant, "") for point in points], zone)
    found = {point.id for point, decision in zip(points, decisions, strict=True) if decision.keep}
    return found if whole is None else found | _by(keep, [p for p in points if p.id in whole], zone)


def worth_bringing(ahead: Sequence[RecoveryPoint], rules: Rules) -> list[RecoveryPoint]:
    """Of the points that a target lacks (oldest first), those that it would not prune at once if it had them all.

    What was taken for replication alone is brought in any case: its next point may have been begun.
    """
    if not ahead:
        return []
    stays = kept(ahead, rules)
    return [
        point
        for point in ahead
        if point is ahead[-1] or point.id in stays or not (point.policies or point.request is not None)
    ]
