"""Takes a guest's recovery points: on one pool in one transaction, over several while the guest is paused.

Guards invariant 2, no mixture: a point over several pools is recorded as `none`. It becomes `paused` only once the
guest is known to have stood still from before the first snapshot until after the last.
"""

import asyncio
from collections.abc import Sequence

import structlog
from holdfast.agent.context import Context
from holdfast.agent.ports import CommitOrder, GuestHere, PauseRefused, Refused, TakeOrder, VolumesError
from holdfast.coordinator.grouped import first
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import Consistency, Member, RecoveryPoint
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Scan, pool_of
from holdfast.coordinator.planning.steps import TakePoint

log = structlog.get_logger()

PAUSE_AGAIN = 600.0
"""Seconds for which a guest is left alone after a pause that was of no use: each costs it up to a second."""


class Taker:
    """Takes the points of one guest under one epoch."""

    def __init__(self, context: Context, vmid: int, epoch: int) -> None:
        self._context = context
        self._vmid = vmid
        self._epoch = epoch
        self._paused_in_vain = float("-inf")
        self.conditions: tuple[Condition, ...] = ()
        """What the newest point lacks."""

    async def take(self, step: TakePoint, protection: Protection, scan: Scan) -> Scan:
        """Returns what a scan would show then. Raises VolumesError or Refused; the point is not complete then."""
        pools = sorted({pool_of(dataset) for _, _, dataset in step.disks})
        for pool in pools:
            if (pool, self._vmid) not in scan.anchors:
                await self._context.volumes.prepare(pool, self._vmid)
        orders = [_take_order(step, pool, pools, scan, protection, self._epoch) for pool in pools]
        self._context.scanner.changed(self._vmid)
        if step.pause:
            scan = await self._take_paused(step, protection, orders, scan)
        else:
            scan = _with_points(scan, orders, await self._take_all(orders))
            self.conditions = ()
        self._context.scanner.amend(self._vmid, scan)
        return scan

    async def _take_all(self, orders: Sequence[TakeOrder]) -> list[RecoveryPoint]:
        """On all pools at the same time: the guest may be waiting."""
        try:
            async with asyncio.TaskGroup() as group:
                taking = [group.create_task(self._context.volumes.take(order)) for order in orders]
        except BaseExceptionGroup as failed:
            raise first(failed) from None
        return [task.result() for task in taking]

    async def _take_paused(
        self, step: TakePoint, protection: Protection, orders: Sequence[TakeOrder], scan: Scan
    ) -> Scan:
        host = self._context.host
        if host.monotonic() < self._paused_in_vain + PAUSE_AGAIN:  # the condition of that time stands
            return _with_points(scan, orders, await self._take_all(orders))
        guest = GuestHere(self._vmid, protection.guest.type, tuple(dataset for _, _, dataset in step.disks))
        try:
            async with host.pause(guest) as pause:
                points = await self._take_all(orders)
                why = await pause.resume()
        except PauseRefused as refusal:
            points, why = await self._take_all(orders), str(refusal)
        else:
            log.info("paused", vmid=self._vmid, seconds=pause.seconds, held=why is None)
            if why is not None:
                self._paused_in_vain = host.monotonic()
        scan = _with_points(scan, orders, points)
        if why is None:
            scan, why = await self._record_paused(orders[0], points[0], scan)
        self.conditions = (self._not_paused(step, orders, why),) if why is not None else ()
        return scan

    async def _record_paused(self, order: TakeOrder, point: RecoveryPoint, scan: Scan) -> tuple[Scan, str | None]:
        """The record of one pool says it for all (RecoveryPoint.joined)."""
        paused = point.model_copy(update={"consistency": Consistency.PAUSED})
        commit = CommitOrder(order.vmid, order.pool, order.epoch, paused, order.definition)
        try:
            await self._context.volumes.commit(commit)
        except (VolumesError, Refused) as error:
            return scan, f"that it was could not be recorded: {error}"
        return scan.with_record(order.pool, order.vmid, paused), None

    def _not_paused(self, step: TakePoint, orders: Sequence[TakeOrder], why: str) -> Condition:
        pools = ", ".join(order.pool for order in orders)
        return Condition(
            reason="NotPaused",
            message=f"Point {step.point} of guest {self._vmid} lies on {pools} and may not be of one instant (its"
            f" consistency is none), as the guest was not paused: {why}. Put its disks on one pool, or correct what"
            " is said (`qmp`, `cgroup`, `pause` in the agent's settings), or do without: `consistency: none` in the"
            " policy.",
        )


def _with_points(scan: Scan, orders: Sequence[TakeOrder], points: Sequence[RecoveryPoint]) -> Scan:
    for order, point in zip(orders, points, strict=True):
        scan = scan.with_point(order.pool, order.vmid, point, order.definition)
    return scan


def _take_order(
    step: TakePoint, pool: str, pools: list[str], scan: Scan, protection: Protection, epoch: int
) -> TakeOrder:
    """What one pool is to do for the point."""
    latest = next(iter(reversed(scan.complete_points(step.vmid))), None)
    members = tuple(
        Member(
            disk=disk,
            volume=volume,
            dataset=dataset,
            snapshot=step.snapshot,
            guid=0,
            size=scan.volumes[dataset].size,
        )
        for disk, volume, dataset in step.disks
        if pool_of(dataset) == pool
    )
    before = {m.dataset: (m.snapshot, m.guid) for m in latest.members} if latest else {}
    point = RecoveryPoint(
        epoch=step.point.epoch,
        sequence=step.point.sequence,
        instant=step.at,
        consistency=Consistency.ATOMIC if len(pools) == 1 else Consistency.NONE,
        definition=step.definition,
        disks=tuple(disk for disk, _, _ in step.disks),
        members=members,
        policies=step.occasion.policies,
        late=step.occasion.late,
        prefix=step.occasion.prefix,
        asked=step.occasion.asked,
        request=step.occasion.request,
        note=step.occasion.note,
    )
    reuse = {m.dataset: before[m.dataset] for m in members if m.dataset in before}
    return TakeOrder(step.vmid, pool, epoch, point, reuse, protection.guest.definition)
