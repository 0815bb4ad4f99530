"""How well each guest is protected: desired state, owners and the agents' reports -> rows. Pure; the reader's clock.

Lag is computed here, not by the agents: now minus the instant of the target's last point, or minus the moment until
which nothing had been written since. So a report need not be renewed while nothing changes but time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Mode
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.report import (
    AgentReport,
    GuestReport,
    PointReport,
    RecordProblem,
    ReplicaReport,
    TargetReport,
)
from holdfast.coordinator.planning.assignment import REASONS, Protection, assign
from holdfast.coordinator.planning.check import check_policy, check_selector
from holdfast.coordinator.planning.desired import Desired
from holdfast.coordinator.planning.missing import MISSING, missing_snapshots
from holdfast.coordinator.planning.orphaned import orphaned_points
from holdfast.coordinator.planning.ownership import home
from holdfast.coordinator.proxmox.calendar import CalendarEvent

SILENT_AFTER = timedelta(minutes=2)
"""An agent renews its report at least every 30 s (DESIGN §5); four are missed."""


class State(StrEnum):
    """How a guest, or one of its targets, fares; the words of `status`."""

    HEALTHY = "healthy"
    BREACHED = "breached"
    UNPROTECTED = "unprotected"
    SYNCING = "syncing first"
    OBSERVED = "observe"


PREVIOUS, NOTHING = "previous version", "nothing"
"""What RecordProblem says is in force."""

_WORST_FIRST = (State.BREACHED, State.SYNCING, State.HEALTHY)


@dataclass(frozen=True, slots=True)
class Reports:
    """What the agents said, by node, and by (node, VMID)."""

    agents: Mapping[str, AgentReport] = field(default_factory=dict)
    guests: Mapping[tuple[str, int], GuestReport] = field(default_factory=dict)
    replicas: Mapping[tuple[str, int], ReplicaReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One replica."""

    node: str
    policy: str
    rpo: float | None
    """Seconds; None where a schedule rules."""
    schedule: str | None
    last: PointReport | None
    fresh_at: datetime | None
    """The replica is as the guest was at this moment."""
    lag: float | None
    """Seconds; None before the first point."""
    state: State


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """One guest; `type` is empty where its record cannot be read."""

    vmid: int
    name: str
    type: str
    mode: Mode
    owner: Owner | None
    targets: tuple[TargetStatus, ...]
    state: State
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """How many guests are in which state."""

    guests: int
    healthy: int
    breached: int
    unprotected: int
    syncing: int
    observed: int

    def __str__(self) -> str:
        line = (
            f"{self.guests} guest{'' if self.guests == 1 else 's'}: {self.healthy} healthy, {self.breached} breached,"
            f" {self.unprotected} unprotected"
        )
        if self.syncing:
            line += f", {self.syncing} syncing first"
        return line + (f", {self.observed} observed only" if self.observed else "")


@dataclass(frozen=True, slots=True)
class Status:
    """The whole view."""

    at: datetime
    guests: tuple[GuestStatus, ...]
    problems: tuple[RecordProblem, ...]
    agents: Mapping[str, AgentReport]

    @property
    def summary(self) -> Summary:
        """The last line of `status`."""
        count = {state: sum(g.state is state for g in self.guests) for state in State}
        return Summary(
            len(self.guests),
            count[State.HEALTHY],
            count[State.BREACHED],
            count[State.UNPROTECTED],
            count[State.SYNCING],
            count[State.OBSERVED],
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What the reader has before it. `zone` is where schedules are read; `leader`: a coordinator is elected."""

    desired: Desired
    owners: Mapping[int, Owner]
    reports: Reports
    now: datetime
    zone: tzinfo
    leader: bool = True

    def report(self, vmid: int) -> GuestReport | None:
        """The owner's report; one of an earlier epoch is of another time."""
        owner = self.owners.get(vmid)
        report = self.reports.guests.get((owner.node, vmid)) if owner else None
        return report if owner and report and report.epoch == owner.epoch else None

    def owner_knows_better(self, vmid: int) -> bool:
        """Whether a record that cannot be read here is in force, in its previous version, at the guest's owner."""
        owner = self.owners.get(vmid)
        agent = self.reports.agents.get(owner.node) if owner else None
        unreadable = {problem.key for problem in self.desired.problems}
        return agent is not None and any(p.key in unreadable and p.in_force == PREVIOUS for p in agent.problems)


def view(seen: Seen) -> Status:
    """Everything that `status` shows."""
    desired = seen.desired
    protections = assign(desired, seen.owners)
    vmids = protections.keys() | _unreadable_guests(desired.problems)
    rows = tuple(_guest(vmid, protections.get(vmid), seen) for vmid in sorted(vmids))
    return Status(seen.now, rows, _problems(desired, seen.reports.agents), seen.reports.agents)


def _guest(vmid: int, protection: Protection | None, seen: Seen) -> GuestStatus:
    owner, mode = seen.owners.get(vmid), seen.desired.mode(vmid)
    if protection is None or seen.owner_knows_better(vmid):
        targets, conditions = _as_told(vmid, seen)
    else:
        targets = tuple(_target(vmid, a.node, a.policy, a.rpo, a.schedule, seen) for a in protection.assignments)
        conditions = _conditions(protection, seen)
    if mode is Mode.OBSERVE:
        state = State.OBSERVED
    elif not targets or owner is None:
        state = State.UNPROTECTED
    elif any(c.reason in (REASONS | {MISSING}) - {"DuplicateTarget"} for c in conditions):  # not what is wanted
        state = State.BREACHED
    else:
        state = min((t.state for t in targets), key=_WORST_FIRST.index)
    name, kind = (protection.guest.name, protection.guest.type) if protection else ("", "")
    return GuestStatus(vmid, name, kind, mode, owner, targets, state, conditions)


def _as_told(vmid: int, seen: Seen) -> tuple[tuple[TargetStatus, ...], tuple[Condition, ...]]:
    """A guest as its owner's agent reports it, because a record cannot be read here."""
    report = seen.report(vmid)
    targets = []
    for told in report.targets if report else ():
        policy = seen.desired.policies.get(told.policy)
        rpo, schedule = (policy.rpo, policy.schedule) if policy else (None, None)
        targets.append(_target(vmid, told.node, told.policy, rpo, schedule, seen))
    own = tuple(p.condition for p in seen.desired.problems if p.key == f"desired/guests/{vmid}")
    return tuple(targets), own + (report.conditions if report else ())


def _target(vmid: int, node: str, policy: str, rpo: float | None, schedule: str | None, seen: Seen) -> TargetStatus:
    report = seen.report(vmid)
    told = next((t for t in report.targets if t.node == node), None) if report else None
    last, fresh_at = _freshness(told, seen.reports.replicas.get((node, vmid)))
    if last is None or fresh_at is None:
        return TargetStatus(node, policy, rpo, schedule, None, None, None, State.SYNCING)
    state = State.BREACHED if _late(fresh_at, rpo, schedule, seen.now, seen.zone) else State.HEALTHY
    lag = max(0.0, (seen.now - fresh_at).total_seconds())
    return TargetStatus(node, policy, rpo, schedule, last, fresh_at, lag, state)


def _freshness(told: TargetReport | None, replica: ReplicaReport | None) -> tuple[PointReport | None, datetime | None]:
    """The target's last point, from whichever side knows the newer one, and the moment that it stands for."""
    known = [p for p in ((told.last if told else None), *(replica.points if replica else ())) if p]
    if not known:
        return None, None
    last = max(known, key=lambda p: (p.epoch, p.sequence))
    if told and told.last == last and told.unchanged_at is not None:
        return last, max(last.instant, told.unchanged_at)
    return last, last.instant


def _late(fresh_at: datetime, rpo: float | None, schedule: str | None, now: datetime, zone: tzinfo) -> bool:
    """Older than the RPO; on a schedule: the next event but one has come, so that a whole period was missed."""
    if rpo is not None:
        return (now - fresh_at).total_seconds() > rpo
    if schedule is None:
        return False
    event = CalendarEvent.parse(schedule)
    due = event.next_after(fresh_at, zone)
    following = event.next_after(due, zone) if due else None
    return following is not None and following <= now


def _conditions(protection: Protection, seen: Seen) -> tuple[Condition, ...]:
    """Computed here where it can be; besides, what only the owner's agent can know."""
    vmid, report = protection.vmid, seen.report(protection.vmid)
    told = report.conditions if report else ()
    since = {(c.reason, c.target): c.since for c in told}
    computed = [c.model_copy(update={"since": since.get((c.reason, c.target))}) for c in protection.conditions]
    owner = seen.owners.get(vmid)
    if owner is None:
        computed.append(_no_owner(vmid, seen))
    elif (protection.protected or protection.snapshots) and (silent := _silent(vmid, owner.node, report, seen)):
        computed.append(silent)
    elif report is not None and seen.desired.mode(vmid) is not Mode.OBSERVE:
        computed += missing_snapshots(protection, report, seen.now, seen.zone)
        computed += orphaned_points(vmid, seen.desired, report)
    return (*computed, *(c for c in told if c.reason not in REASONS))


def _no_owner(vmid: int, seen: Seen) -> Condition:
    desired, at = seen.desired, home(seen.desired, vmid)
    if at is None:
        why = "it is not known where it runs. Set node in its Guest, or apply a Placement with the node."
    elif at not in desired.nodes:
        why = f"its node {at} does not exist (known: {', '.join(sorted(desired.nodes)) or 'none'}). Apply that Node."
    elif not seen.leader:
        why = "no coordinator leads. Start holdfast-coordinator, or see its log."
    else:
        why = "the coordinator has not named one yet. If this stays, see the log of holdfast-coordinator."
    return Condition(reason="NoOwner", message=f"Guest {vmid} has no owner, so nothing replicates it: {why}")


def _silent(vmid: int, node: str, report: GuestReport | None, seen: Seen) -> Condition | None:
    agent = seen.reports.agents.get(node)
    if agent is None:
        since = "has never reported"
    elif seen.now - agent.seen > SILENT_AFTER:
        since = f"was last heard of at {agent.seen.isoformat(timespec='seconds')}"
    elif report is None:
        return Condition(
            reason="NoReport",
            message=f"The agent on {node} has not reported on guest {vmid} yet. If this stays, see its log there.",
        )
    else:
        return None
    return Condition(
        reason="AgentSilent",
        message=f"The agent on {node}, which owns guest {vmid}, {since}. Start holdfast-agent there, or see its log.",
    )


def _unreadable_guests(problems: Iterable[RecordProblem]) -> set[int]:
    names = [p.key.removeprefix("desired/guests/") for p in problems if p.key.startswith("desired/guests/")]
    return {int(name) for name in names if name.isascii() and name.isdecimal()}


def _problems(desired: Desired, agents: Mapping[str, AgentReport]) -> tuple[RecordProblem, ...]:
    """Records that are not in force as written: as the agents tell it where they know more, else as found here.

    An agent may have a previous version in force, or be of another release and refuse what is accepted here.
    """
    found = {problem.key: problem for problem in desired.problems}
    for node, agent in sorted(agents.items()):
        for problem in agent.problems:
            if problem.key not in found:
                said = f"{problem.condition.message} (said by {node}, version {agent.version})"
                condition = problem.condition.model_copy(update={"message": said})
                found[problem.key] = problem.model_copy(update={"condition": condition})
            elif found[problem.key].in_force == NOTHING:
                found[problem.key] = problem
    return (*(found[key] for key in sorted(found)), *_policy_problems(desired))


def _policy_problems(desired: Desired) -> list[RecordProblem]:
    """What a policy names that does not exist: it shows even while the policy selects no guest."""
    return [
        RecordProblem(key=f"desired/policies/{name}", condition=condition, in_force="the rest of the policy")
        for name, policy in sorted(desired.policies.items())
        for condition in check_policy(name, policy, desired)
    ] + [
        RecordProblem(key=f"desired/policies/{name}", condition=condition, in_force="the rest of the policy")
        for name, snapshots in sorted(desired.snapshot_policies.items())
        for condition in check_selector(name, snapshots.selector, desired)
    ]
