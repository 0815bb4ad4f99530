"""Keeps one guest that this node owns replicated: takes points, and has a worker for each target bring them over."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from holdfast.agent.context import Context
from holdfast.agent.gate import Gate
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.scanner import LAST_SEEN, RECENT
from holdfast.agent.taking import Taker
from holdfast.agent.target import TargetWorker
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Mode
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.leftovers import Cleanup, cleaned, plan_cleanup
from holdfast.coordinator.planning.observed import Scan, pool_of
from holdfast.coordinator.planning.protection import PointPlan, closed_disks, plan_point
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
            async with asyncio.TaskGroup() as group:
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
            del self.state.targets[name]
        for name in sorted(wanted - self.state.targets.keys()):
            worker = TargetWorker(self._context, self.vmid, self._owner, name, self.wake, self.commits)
            self.state.targets[name] = worker
            tasks[name] = group.create_task(worker.run())

    async def _round(self, protection: Protection) -> None:
        conditions = list(protection.conditions)
        try:
            if protection.assignments:
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
        plan, scan = await self._plan(protection)
        self._look_again(self._context.later(RETRY) if plan.conditions else plan.due)
        self.state.unchanged_at = plan.unchanged_at or self.state.unchanged_at
        if scan is not None and self._may_act() and not closed_disks(protection.assignments[0].disks, scan):
            failed = None
            if plan.step is not None:
                try:
                    scan = await self._take(plan.step, protection, scan)
                except VolumesError as error:  # letting go of something may be what helps: the pool may be full
                    failed = error
            if scan.sees_all_of(self.vmid):
                await self._tidy(scan)
            if failed is not None:
                raise failed
        return plan.conditions + self._taker.conditions + self._stuck

    def _may_act(self) -> bool:
        return self._context.view.desired.mode(self.vmid) is not Mode.OBSERVE

    async def plan(self) -> PointPlan:
        """What would be done now (`holdfast plan`)."""
        protection = self._context.view.protection(self.vmid)
        if protection is None or not protection.assignments:
            return PointPlan(None, conditions=protection.conditions if protection else ())
        return self._decide(protection, await self._context.scanner.look(self.vmid))

    async def _plan(self, protection: Protection) -> tuple[PointPlan, Scan | None]:
        """Woken by a target, what was last seen will do; a point that is due is decided on a fresh look."""
        now, began = self._context.host.now(), self._context.host.monotonic()
        if self.state.due is None or self.state.due > now:
            plan = self._decide(protection, await self._context.scanner.look(self.vmid, LAST_SEEN))
            if plan.step is None and not plan.conditions and (plan.due is None or plan.due > now):
                return plan, None
        scan = await self._context.scanner.look(self.vmid, RECENT + self._context.host.monotonic() - began)
        return self._decide(protection, scan), scan

    async def _tidy(self, scan: Scan) -> None:
        """Clean up; what cannot be let go must not keep new points from being taken."""
        self._stuck = ()
        try:
            await self._clean_up(scan)
        except VolumesError as error:
            self._context.scanner.changed(self.vmid)
            self._stuck = (self._not_cleaned(error),)

    def _not_cleaned(self, error: VolumesError) -> Condition:
        return Condition(
            reason="CleanupFailed",
            message=f"Superseded snapshots of guest {self.vmid} stay for now: {error}. If a clone or a hold of yours"
            " needs one, that is fine; they go once it has gone.",
        )

    def _decide(self, protection: Protection, scan: Scan) -> PointPlan:
        waiting = [name for name, target in self.state.targets.items() if target.waiting]
        requests = self._context.view.desired.requests.values()
        asked = [r.asked for r in requests if r.vmid == self.vmid and r.action == "replicate"]
        committed = [target.last.id for target in self.state.targets.values() if target.last]
        host, latest = self._context.host, max(asked, default=None)
        took = {name: target.took for name, target in self.state.targets.items()}
        return plan_point(protection, self._owner.epoch, scan, waiting, host.now(), host.zone, latest, committed, took)

    async def _take(self, step: TakePoint, protection: Protection, scan: Scan) -> Scan:
        """Returns what a scan would show then. The snapshots are held by the clean-up that follows."""
        scan = await self._taker.take(step, protection, scan)
        self.state.unchanged_at = None
        self._log.info("point taken", point=str(step.point))
        for target in self.state.targets.values():
            target.wake()
        return scan

    async def _clean_up(self, scan: Scan) -> None:
        """Hold what is needed, let go of what is not."""
        targets = self.state.targets
        # a target's worker is ahead of what the look shows as committed
        in_use = {point.id for t in targets.values() for point in (t.last, t.plan.goal) if point is not None}
        in_use |= self._context.view.desired.points_asked_for(self.vmid)
        cleanup = plan_cleanup(self.vmid, scan, list(targets), in_use)
        if not cleanup:
            return
        volumes, pools = self._context.volumes, sorted({anchor.pool for anchor in scan.anchors_of(self.vmid)})
        self._context.scanner.amend(
            self.vmid, cleaned(scan, cleanup)
        )  # from now on no target chooses what is about to go
        await volumes.hold(cleanup.hold)
        if cleanup.release or cleanup.destroy or cleanup.forget:
            await volumes.release(cleanup.release)
            for pool in pools:
                doomed = [d for d in cleanup.destroy if pool_of(d.snapshot) == pool]
                await volumes.destroy(pool, self.vmid, self._owner.epoch, doomed, cleanup.forget, cleanup.definitions)
        for bookmark in cleanup.drop_bookmarks:
            await volumes.drop_bookmark(bookmark)
        self._log.debug("cleaned up", **_counts(cleanup))


def _counts(cleanup: Cleanup) -> dict[str, int]:
    return {
        "held": len(cleanup.hold),
        "destroyed": len(cleanup.destroy),
        "bookmarks_dropped": len(cleanup.drop_bookmarks),
        "forgotten": len(cleanup.forget),
    }
