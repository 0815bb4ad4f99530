"""Keeps one guest that this node owns replicated: takes points, and has a worker for each target bring them over."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import structlog
from holdfast.agent.context import Context
from holdfast.agent.gate import Gate
from holdfast.agent.points import point_report
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.scanner import LAST_SEEN, RECENT
from holdfast.agent.taking import Taker
from holdfast.agent.target import TargetWorker
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Mode
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.report import PointReport
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.kept import Rules, on_owner
from holdfast.coordinator.planning.leftovers import Cleanup, cleaned, kept_here, needs, plan_cleanup, sent_marks
from holdfast.coordinator.planning.observed import Scan, pool_of
from holdfast.coordinator.planning.protection import PointPlan, closed_disks, plan_point
from holdfast.coordinator.planning.snapshots import plan_snapshots
from holdfast.coordinator.planning.steps import TakePoint

log = structlog.get_logger()

RETRY = 15.0
"""Seconds after which a guest whose storage refused something is tried again."""


@dataclass(slots=True)
class GuestState:
    """What the report and the API say of a guest."""

    epoch: int
    unchanged_at: datetime | None = None
    due: datetime | None = None
    conditions: tuple[Condition, ...] = ()
    targets: dict[str, TargetWorker] = field(default_factory=dict)
    points: tuple[PointReport, ...] = ()


class GuestWorker:
    """One guest. It is level-triggered: every round looks at what is, and compares it with what should be."""

    def __init__(self, context: Context, vmid: int, owner: Owner) -> None:
        self._context = context
        self.vmid = vmid
        self._owner = owner
        self._wake = asyncio.Event()
        self._until: float | None = None
        """When `state.due` is, on the monotonic clock."""
        self.turn = asyncio.Lock()
        """Held while anything of the guest's volumes is changed here."""
        self.commits = Gate()
        """Closed while the guest is rolled back: a target that commits lets older points go."""
        self._stuck: tuple[Condition, ...] = ()
        """What the last clean-up could not let go."""
        self._tidied_by: Rules | None = None
        """The rules of the last clean-up."""
        self._parted: dict[str, set[PointId]] = {}
        """Target that is none any more → what it had and was getting; its policy may come back."""
        self._from_before: frozenset[PointId] | None = None
        """Points that an earlier life of this agent may have begun to bring to a target that has not answered yet."""
        self._taker = Taker(context, vmid, owner.epoch)
        self.state = GuestState(owner.epoch)
        self._log = log.bind(vmid=vmid, epoch=owner.epoch)

    def wake(self) -> None:
        """Something changed that this guest may depend on."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        changed = self._context.view.subscribe()
        try:
            async with TaskGroup() as group:
                group.create_task(self._pass_on(changed))
                tasks: dict[str, asyncio.Task[None]] = {}
                while True:
                    self._wake.clear()
                    protection = self._context.view.protection(self.vmid)
                    if protection is None:
                        return
                    self._follow_targets(group, tasks, protection)
                    async with self.turn:
                        await self._round(protection)
                    self._context.report()
                    await self._sleep()
        finally:
            self._context.view.unsubscribe(changed)

    async def _pass_on(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            self.wake()
            for target in self.state.targets.values():
                target.wake()

    async def _sleep(self) -> None:
        """Until something changes or the next point falls due."""
        seconds = None if self._until is None else max(0.0, self._until - self._context.host.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _look_again(self, due: datetime | None) -> None:
        """The time until then is counted from now on, for the wall clock may be set meanwhile."""
        host = self._context.host
        self.state.due = due
        self._until = None if due is None else host.monotonic() + (due - host.now()).total_seconds()

    def _follow_targets(
        self, group: asyncio.TaskGroup, tasks: dict[str, asyncio.Task[None]], protection: Protection
    ) -> None:
        """A worker for each target of the assignments, none for others."""
        wanted = {a.node for a in protection.assignments}
        for name in sorted(self.state.targets.keys() - wanted):
            tasks.pop(name).cancel()
            self._parted[name] = _at(self.state.targets.pop(name))
        for name in sorted(wanted - self.state.targets.keys()):
            worker = TargetWorker(self._context, self.vmid, self._owner, name, self.wake, self.commits)
            self.state.targets[name] = worker
            tasks[name] = group.create_task(worker.run())

    async def _round(self, protection: Protection) -> None:
        conditions = list(protection.conditions)
        try:
            if protection.disks:
                conditions += await self._protect(protection)
            else:
                self._look_again(None)
        except (VolumesError, Refused) as error:
            reason = error.reason if isinstance(error, Refused) else "StorageFailed"
            self._log.warning("no point taken", reason=reason, error=str(error))
            conditions.append(Condition(reason=reason, message=f"No point was taken of guest {self.vmid}: {error}"))
            self._context.scanner.changed(self.vmid)
            self._look_again(self._context.later(RETRY))
        if tuple(conditions) != self.state.conditions:
            for condition in conditions:
                self._log.info("condition", reason=condition.reason, message=condition.message)
        self.state.conditions = tuple(conditions)

    async def _protect(self, protection: Protection) -> tuple[Condition, ...]:
        """Take a point if one is due. What it supersedes is let go of while the targets bring it over."""
        plan, scan, fresh = await self._plan(protection)
        self._look_again(self._context.later(RETRY) if plan.conditions else plan.due)
        self.state.unchanged_at = plan.unchanged_at or self.state.unchanged_at
        promoted = not closed_disks(protection.disks, scan)
        if fresh and promoted and self._may_act() and self._concerned(protection):
            if operation := self._operation(plan, protection, scan):
                acting = partial(self._act, plan, protection, scan)
                plan, scan = await self._context.locks.run(self.vmid, operation, acting)
            elif scan.sees_all_of(self.vmid):
                self._stuck = ()
        self.state.points = self._points(scan, protection)
        return plan.conditions + plan.held_back + self._taker.conditions + self._stuck

    def _operation(self, plan: PointPlan, protection: Protection, scan: Scan) -> str | None:
        """What the guest's lock is wanted for; None if there is nothing to do."""
        if plan.step is not None:
            return f"point {plan.step.point}"
        wanted = scan.sees_all_of(self.vmid) and self._superseded(scan, protection)
        return "letting go of snapshots" if wanted else None

    async def _act(self, plan: PointPlan, protection: Protection, scan: Scan, waited: bool) -> tuple[PointPlan, Scan]:
        """Take what is planned, and let go of what is superseded; of what is there now, if another had the lock."""
        if waited:
            self._context.scanner.changed(self.vmid)
            plan, scan, _ = await self._plan(protection)
        failed = None
        if plan.step is not None:
            try:
                scan = await self._take(plan.step, protection, scan)
                self._expect(self._decide(protection, scan))
            except VolumesError as error:  # letting go of something may be what helps: the pool may be full
                failed = error
        if scan.sees_all_of(self.vmid):
            scan = await self._tidy(scan, protection)
        if failed is not None:
            raise failed
        return plan, scan

    def _superseded(self, scan: Scan, protection: Protection) -> Cleanup:
        return plan_cleanup(self.vmid, scan, list(self.state.targets), self._in_use(scan), self._rules(protection))

    def _expect(self, plan: PointPlan) -> None:
        """What comes after a point that was taken: targets may be away, and nobody else wakes this guest."""
        self._look_again(plan.due)
        if plan.step is not None:
            self.wake()

    def _concerned(self, protection: Protection) -> bool:
        """Whether anybody wants anything of this guest: what nobody rules stays as it is."""
        requests = self._context.view.desired.requests.values()
        asked = any(request.vmid == self.vmid for request in requests)
        return bool(protection.assignments or protection.snapshots or asked)

    def _rules(self, protection: Protection) -> Rules:
        return on_owner(self._context.view.desired, protection, self._context.host.zone)

    def _points(self, scan: Scan, protection: Protection) -> tuple[PointReport, ...]:
        rules, points = self._rules(protection), scan.complete_points(self.vmid)
        kept = kept_here(self.vmid, scan, rules)
        needed = needs(points, sent_marks(self.vmid, scan), list(self.state.targets), self._in_use(scan), rules)
        return tuple(point_report(p, kept.get(p.id, ()), needed.get(p.id, ())) for p in points)

    def _in_use(self, scan: Scan) -> set[PointId]:
        """Points that a target's worker is ahead of what a look shows as committed with, or may be."""
        targets = self.state.targets.values()
        if self._from_before is None:
            recorded = frozenset(scan.recorded_points(self.vmid))  # amid a rollback none of them is complete
            self._from_before = recorded if recorded or not scan.failed else None
        may_be_begun = self._from_before if any(not t.asked for t in targets) else None
        silent = {name for name in self._parted if not targets or not self._has_told(name)}
        asked_for = self._context.view.desired.points_asked_for(self.vmid)
        return asked_for.union(may_be_begun or (), *(self._parted[name] for name in silent), *map(_at, targets))

    def _has_told(self, name: str) -> bool:
        """Whether a target has said what it has since it was one again; true of those that are none."""
        target = self.state.targets.get(name)
        return target is None or target.asked

    def _may_act(self) -> bool:
        return self._context.view.desired.mode(self.vmid) is not Mode.OBSERVE

    async def plan(self) -> PointPlan:
        """What would be done now (`holdfast plan`)."""
        protection = self._context.view.protection(self.vmid)
        if protection is None or not protection.disks:
            return PointPlan(None, conditions=protection.conditions if protection else ())
        return self._decide(protection, await self._context.scanner.look(self.vmid))

    async def _plan(self, protection: Protection) -> tuple[PointPlan, Scan, bool]:
        """Woken by a target, what was last seen will do; a point that is due is decided on a fresh look (true).

        So is what to let go of, when other rules are in force than before.
        """
        now, began = self._context.host.now(), self._context.host.monotonic()
        same = self._tidied_by == self._rules(protection) or not self._concerned(protection)
        if same and (self.state.due is None or self.state.due > now):
            scan = await self._context.scanner.look(self.vmid, LAST_SEEN)
            plan = self._decide(protection, scan)
            if plan.step is None and not plan.conditions and (plan.due is None or plan.due > now):
                return plan, scan, False
        scan = await self._context.scanner.look(self.vmid, RECENT + self._context.host.monotonic() - began)
        self._tidied_by = self._rules(protection)
        return self._decide(protection, scan), scan, True

    async def _tidy(self, scan: Scan, protection: Protection) -> Scan:
        """Clean up; what cannot be let go must not keep new points from being taken. Returns what is there then."""
        self._stuck = ()
        try:
            return await self._clean_up(scan, self._superseded(scan, protection))
        except VolumesError as error:
            self._context.scanner.changed(self.vmid)
            self._stuck = (self._not_cleaned(error),)
            return scan

    def _not_cleaned(self, error: VolumesError) -> Condition:
        return Condition(
            reason="CleanupFailed",
            message=f"Superseded snapshots of guest {self.vmid} stay for now: {error}. If a clone or a hold of yours"
            " needs one, that is fine; they go once it has gone.",
        )

    def _decide(self, protection: Protection, scan: Scan) -> PointPlan:
        waiting = [name for name, target in self.state.targets.items() if target.waiting]
        requests = self._context.view.desired.requests
        asked = [r.asked for r in requests.values() if r.vmid == self.vmid and r.action == "replicate"]
        committed = [target.last.id for target in self.state.targets.values() if target.last]
        host, latest = self._context.host, max(asked, default=None)
        took = {name: target.took for name, target in self.state.targets.items()}
        now, zone, epoch = host.now(), host.zone, self._owner.epoch
        occasion = plan_snapshots(protection, scan, requests, now, zone)
        return plan_point(protection, epoch, scan, waiting, now, zone, latest, committed, took, occasion)

    async def _take(self, step: TakePoint, protection: Protection, scan: Scan) -> Scan:
        """Returns what a scan would show then. The snapshots are held by the clean-up that follows."""
        scan = await self._taker.take(step, protection, scan)
        self.state.unchanged_at = None
        self._log.info("point taken", point=str(step.point), **step.occasion.words())
        for target in self.state.targets.values():
            target.wake()
        return scan

    async def _clean_up(self, scan: Scan, cleanup: Cleanup) -> Scan:
        """Hold what is needed, let go of what is not."""
        if not cleanup:
            return scan
        volumes, pools = self._context.volumes, sorted({anchor.pool for anchor in scan.anchors_of(self.vmid)})
        after = cleaned(scan, cleanup)
        self._context.scanner.amend(self.vmid, after)  # from now on no target chooses what is about to go
        await self._context.locks.confirm(self.vmid, self._owner.epoch, pools)
        await volumes.hold(cleanup.hold)
        if cleanup.release or cleanup.destroy or cleanup.forget:
            await volumes.release(cleanup.release)
            for pool in pools:
                doomed = [d for d in cleanup.destroy if pool_of(d.snapshot) == pool]
                await volumes.destroy(pool, self.vmid, self._owner.epoch, doomed, cleanup.forget, cleanup.definitions)
        for bookmark in cleanup.drop_bookmarks:
            await volumes.drop_bookmark(bookmark)
        self._log.debug("cleaned up", **_counts(cleanup))
        return after


def _at(target: TargetWorker) -> set[PointId]:
    """What it has, and what it is getting."""
    return {point.id for point in (target.last, target.begun) if point is not None}


def _counts(cleanup: Cleanup) -> dict[str, int]:
    return {
        "held": len(cleanup.hold),
        "destroyed": len(cleanup.destroy),
        "bookmarks_dropped": len(cleanup.drop_bookmarks),
        "forgotten": len(cleanup.forget),
    }
