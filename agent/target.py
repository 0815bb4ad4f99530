"""Brings one guest's points to one target, and keeps at it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from holdfast.agent.context import Context
from holdfast.agent.gate import Gate
from holdfast.agent.ports import Refused, VolumesError, WireError
from holdfast.agent.scanner import LAST_SEEN
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Mode
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.admission import Claim
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.kept import on_replica
from holdfast.coordinator.planning.leftovers import bookmarks_to_make
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.planning.protection import (
    Inventory,
    TargetPlan,
    TargetVolume,
    closed_disks,
    deadline,
    plan_target,
)
from holdfast.coordinator.planning.steps import AbortPartial, DiskStep, ReturnTo, SendDisk, SetAside

log = structlog.get_logger()

BACK_OFF = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between tries at a target that cannot be reached or refuses; the last repeats."""


class TargetWorker:
    """One guest and one target. Each round asks what is lacking there, brings it, and looks again."""

    def __init__(
        self,
        context: Context,
        vmid: int,
        owner: Owner,
        target: str,
        on_change: Callable[[], None],
        commits: Gate,
    ) -> None:
        self._context = context
        self._vmid = vmid
        self._owner = owner
        self.target = target
        self._on_change = on_change
        self._commits = commits
        self._wake = asyncio.Event()
        self._inventory: Inventory | None = None
        self._failures = 0
        self._marked: dict[str, PointId] = {}
        """Pool → the last point that was marked there as committed by the target."""
        self.took = 0.0
        """Seconds from the last point's instant to its commit."""
        self.asked = False
        """Whether it has ever told what it has, and that was understood."""
        self.waiting = False
        """Whether it has all there is and could take up a new point now."""
        self.plan = TargetPlan(None, ())
        self.begun: RecoveryPoint | None = None
        """What it is getting, or was the last to get."""
        self.conditions: tuple[Condition, ...] = ()
        self._log = log.bind(vmid=vmid, epoch=owner.epoch, target=target)

    @property
    def last(self) -> RecoveryPoint | None:
        """The newest point that the target has committed, as far as is known."""
        return self._inventory.last if self._inventory else None

    def wake(self) -> None:
        """There may be something new to bring."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                again = await self._round()
                self._failures = 0
            except (WireError, VolumesError, Refused) as error:
                await self._back_off(error)
            else:
                if not again:
                    await self._wake.wait()

    async def _back_off(self, error: WireError | VolumesError | Refused) -> None:
        """What the target holds is asked anew; a stream that was cut is resumed then."""
        self._inventory = None
        self._context.scanner.changed(self._vmid)
        if isinstance(error, Refused):
            reason = error.reason
        else:
            reason = "TargetUnreachable" if isinstance(error, WireError) else "TransferFailed"
        self._settle((Condition(reason=reason, target=self.target, message=f"To {self.target}: {error}"),), False)
        delay = BACK_OFF[min(self._failures, len(BACK_OFF) - 1)]
        self._failures += 1
        await asyncio.sleep(delay)

    def _settle(self, conditions: tuple[Condition, ...], waiting: bool) -> None:
        if conditions != self.conditions:
            for condition in conditions:
                self._log.warning("condition", reason=condition.reason, message=condition.message)
        changed = (conditions, waiting) != (self.conditions, self.waiting)
        self.conditions, self.waiting = conditions, waiting
        self._context.report()
        if changed:
            self._on_change()

    def _assignment(self) -> Assignment | None:
        protection = self._context.view.protection(self._vmid)
        return next((a for a in protection.assignments if a.node == self.target), None) if protection else None

    async def _round(self) -> bool:
        """Whether there may be more to do at once."""
        assignment, node = self._assignment(), self._context.view.desired.nodes.get(self.target)
        if assignment is None or node is None:
            return False
        if node.maintenance:
            message = f"{self.target} is in maintenance: nothing is sent to it until that is taken back."
            self._settle((Condition(reason="TargetInMaintenance", target=self.target, message=message),), False)
            return False
        if self._inventory is None:
            self._inventory = await self._context.sender.inventory(node, self._claim(), assignment)
        turns = self._commits.turns
        scan = await self._context.scanner.look(self._vmid, LAST_SEEN)
        if not closed_disks(assignment.disks, scan):
            await self._record_sent(scan, self._inventory.last)
            scan = await self._context.scanner.look(self._vmid, LAST_SEEN)  # without what was let go meanwhile
        if not scan.sees_all_of(self._vmid):  # a plan from what is left would let go of what this target has begun
            raise VolumesError(f"the guest's storage here cannot be looked at: {'; '.join(scan.failed.values())}")
        rules = on_replica(self._context.view.desired, assignment, self._context.host.zone)
        self.plan = plan = plan_target(assignment, self._owner.epoch, scan, self._inventory, rules)
        self.begun = plan.goal or self.begun  # a plan without one may be of a moment, as amid a rollback
        self.asked |= plan.goal is not None or bool(not plan.conditions and scan.complete_points(self._vmid))
        self._settle(plan.conditions, plan.goal is None and not plan.conditions)
        if plan.conditions:
            self._inventory = None
            await asyncio.sleep(BACK_OFF[-1])
            return True
        if plan.goal is None or self._context.view.desired.mode(self._vmid) is Mode.OBSERVE:
            return False
        due = deadline(assignment, self._inventory.last, self._context.host.zone)
        disks = plan.disks
        if assignment.bandwidth is not None:  # it bounds the guest, and the kernel paces each stream by itself
            disks = [[step for steps in disks for step in steps]]
        await self._bring(disks, due, assignment, node, scan)
        async with self._commits.passing():
            if self._commits.turns != turns:  # the guest was rolled back: the point may be none any more
                self._inventory = None
                return True
            self._log.info("step", step=str(plan.steps[-1]))
            await self._commit(plan.goal, assignment, node, scan)
        return True

    async def _bring(
        self, disks: Sequence[Sequence[DiskStep]], due: datetime, assignment: Assignment, node: Node, scan: Scan
    ) -> None:
        """The disks side by side, each one's steps in turn. One that fails lets the others go on."""
        failed: list[WireError | VolumesError | Refused] = []

        async def bring(steps: Sequence[DiskStep]) -> None:
            try:
                async with self._context.slots.hold(due):
                    for step in steps:
                        await self._carry_out(step, assignment, node, scan)
            except (WireError, VolumesError, Refused) as error:
                failed.append(error)

        async with TaskGroup() as group:
            for steps in disks:
                group.create_task(bring(steps))
        if failed:
            raise failed[0]

    def _claim(self) -> Claim:
        return Claim(self._context.me, self._vmid, self._owner.epoch, self._context.view.generation or 1)

    async def _carry_out(self, step: DiskStep, assignment: Assignment, node: Node, scan: Scan) -> None:
        self._log.info("step", step=str(step))
        sender, claim = self._context.sender, self._claim()
        match step:
            case SendDisk():
                await sender.send(node, claim, assignment, step, scan.volumes[step.disk.dataset])
            case AbortPartial():
                await sender.abort_partial(node, claim, assignment, step.disk.target_dataset, step.guid)
            case SetAside():
                await sender.set_aside(node, claim, assignment, step.disk.target_dataset)
            case ReturnTo():
                await sender.bring_back(node, claim, assignment, step.disk.target_dataset, step.guid)

    async def _commit(self, goal: RecoveryPoint, assignment: Assignment, node: Node, scan: Scan) -> None:
        definition = _definition(scan, self._vmid, goal)
        await self._context.sender.commit(node, self._claim(), assignment, goal, definition, scan.volumes)
        await self._committed(goal, assignment, scan)

    async def _committed(self, goal: RecoveryPoint, assignment: Assignment, scan: Scan) -> None:
        assert self._inventory is not None
        self._inventory = _with_point(self._inventory, goal, assignment)
        await self._record_sent(scan, goal)
        self.took = (self._context.host.now() - goal.instant).total_seconds()
        self._context.report()

    async def _record_sent(self, scan: Scan, last: RecoveryPoint | None) -> None:
        """Mark on our storage how far the target is, before anything that it could still need is let go."""
        here = scan.recorded_points(self._vmid).get(last.id) if last else None
        if last is None or here is None:
            return
        for anchor in scan.anchors_of(self._vmid):
            if anchor.sent.get(self.target) == last.id or self._marked.get(anchor.pool) == last.id:
                continue
            bookmarks = bookmarks_to_make(self._vmid, anchor.pool, scan, here, anchor.sent.get(self.target))
            await self._context.volumes.record_sent(
                anchor.pool, self._vmid, self._owner.epoch, self.target, last.id, bookmarks
            )
            self._marked[anchor.pool] = last.id


def _definition(scan: Scan, vmid: int, point: RecoveryPoint) -> str:
    for anchor in scan.anchors_of(vmid):
        if point.definition in anchor.definitions:
            return anchor.definitions[point.definition]
    return ""


def _with_point(inventory: Inventory, point: RecoveryPoint, assignment: Assignment) -> Inventory:
    """What the target holds after it committed the point, without asking it."""
    volumes = dict(inventory.volumes)
    datasets = {disk.disk: disk.target_dataset for disk in assignment.disks}
    for member in point.members:
        dataset = datasets[member.disk]
        before = volumes.get(dataset)
        guids = before.guids if before else ()
        if member.guid not in guids:
            guids = (*guids, member.guid)
        volumes[dataset] = TargetVolume(dataset, True, guids, 0, None, None)
    return replace(inventory, points=(*inventory.points, point), volumes=volumes)
