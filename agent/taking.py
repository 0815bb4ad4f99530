"""Takes a guest's recovery points: on one pool in one transaction, over several while the guest is paused.

Guards invariant 2, no mixture: a point over several pools is recorded as `none`. It becomes `paused`, or `frozen`, only
once the guest is known to have stood still from before the first snapshot until after the last. `frozen` is the same
on one pool.
"""

from collections.abc import Sequence

import structlog
from holdfast.agent.context import Context
from holdfast.agent.ports import CommitOrder, GuestHere, PauseRefused, Refused, TakeOrder, VolumesError
from holdfast.coordinator.grouped import TaskGroup, first
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import Consistency, Member, RecoveryPoint
from holdfast.coordinator.model.snapshot_policy import Wish
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Scan, pool_of
from holdfast.coordinator.planning.steps import TakePoint

log = structlog.get_logger()

AGAIN = 600.0
"""Seconds for which a guest is left alone after a pause or a freeze that was of no use: each costs up to a second."""


class Taker:
    """Takes the points of one guest under one epoch."""

    def __init__(self, context: Context, vmid: int, epoch: int) -> None:
        self._context = context
        self._vmid = vmid
        self._epoch = epoch
        self._in_vain: dict[Consistency, float] = {}
        self._lacking: dict[Consistency, Condition] = {}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the newest points lack."""
        return tuple(self._lacking.values())

    async def take(self, step: TakePoint, protection: Protection, scan: Scan) -> Scan:
        """Returns what a scan would show then. Raises VolumesError or Refused; the point is not complete then."""
        pools = sorted({pool_of(dataset) for _, _, dataset in step.disks})
        for pool in pools:
            if (pool, self._vmid) not in scan.anchors:
                await self._context.volumes.prepare(pool, self._vmid)
        orders = [_take_order(step, pool, pools, scan, protection, self._epoch) for pool in pools]
        self._context.scanner.changed(self._vmid)
        points, got = await self._take_still(step, protection, orders)
        scan = _with_points(scan, orders, points)
        if got is not None:
            try:
                scan = await self._record(got, orders[0], points[0], scan)
            except (VolumesError, Refused) as error:
                self._lacking[got] = self._not_still(got, step, orders, f"that it was could not be recorded: {error}")
        self._context.scanner.amend(self._vmid, scan)
        return scan

    async def _take_all(self, orders: Sequence[TakeOrder]) -> list[RecoveryPoint]:
        """On all pools at the same time: the guest may be waiting."""
        try:
            async with TaskGroup() as group:
                taking = [group.create_task(self._context.volumes.take(order)) for order in orders]
        except BaseExceptionGroup as failed:
            raise first(failed) from None
        return [task.result() for task in taking]

    async def _take_still(
        self, step: TakePoint, protection: Protection, orders: Sequence[TakeOrder]
    ) -> tuple[list[RecoveryPoint], Consistency | None]:
        """As still as the step wants the guest, or as can be had; None: as it is by itself."""
        if all(policy.consistency is not Wish.FROZEN for policy in protection.snapshots.values()):
            self._lacking.pop(Consistency.FROZEN, None)
        if not step.pause:
            self._lacking.pop(Consistency.PAUSED, None)
        points = None
        wanted = ((Consistency.FROZEN, step.freeze), (Consistency.PAUSED, step.pause))
        for how in [how for how, is_wanted in wanted if is_wanted]:
            now = self._context.host.monotonic()
            if now < self._in_vain.get(how, float("-inf")) + AGAIN:  # the condition of that time stands
                continue
            points, why = await self._take_if_still(how, step, protection, orders)
            if points is not None and why is None:
                for had in (how, Consistency.PAUSED):
                    self._lacking.pop(had, None)
                return points, how
            lacks = {how, Consistency.PAUSED} if points is not None and step.pause else {how}
            self._lacking |= {each: self._not_still(each, step, orders, str(why)) for each in lacks}
            if points is not None:
                break
        return points or await self._take_all(orders), None

    async def _take_if_still(
        self, how: Consistency, step: TakePoint, protection: Protection, orders: Sequence[TakeOrder]
    ) -> tuple[list[RecoveryPoint] | None, str | None]:
        """None instead of points: it could not be brought to stand still. The text: why it did not, as far as known."""
        host, freeze = self._context.host, how is Consistency.FROZEN
        datasets = tuple(dataset for _, _, dataset in step.disks)
        volumes, kind = self._context.volumes, protection.guest.type
        clients = await volumes.clients(datasets)
        images = await volumes.kernel_names(datasets) if kind == "lxc" else {}
        guest = GuestHere(self._vmid, kind, datasets, freeze, clients, images)
        points = None
        try:
            async with host.pause(guest) as pause:
                points = await self._take_all(orders)
                why = await pause.resume()
        except PauseRefused as refusal:
            why = str(refusal)
        else:
            if why is None and not clients:
                why = await self._opened(datasets)
            log.info(str(how), vmid=self._vmid, seconds=pause.seconds, held=why is None)
        if why is not None and (freeze or points is not None):
            self._in_vain[how] = host.monotonic()
        return points, why

    async def _opened(self, datasets: Sequence[str]) -> str | None:
        """Why a guest that was off may have written since: it may have been started where this node sees no process."""
        try:
            clients = await self._context.volumes.clients(datasets)
        except VolumesError as error:
            return str(error)
        return f"its images were opened meanwhile, at {', '.join(clients)}" if clients else None

    async def _record(self, got: Consistency, order: TakeOrder, point: RecoveryPoint, scan: Scan) -> Scan:
        """The record of one pool says it for all (RecoveryPoint.joined). VolumesError or Refused."""
        still = point.model_copy(update={"consistency": got})
        commit = CommitOrder(order.vmid, order.pool, order.epoch, still, order.definition)
        await self._context.volumes.commit(commit)
        return scan.with_record(order.pool, order.vmid, still)

    def _not_still(self, how: Consistency, step: TakePoint, orders: Sequence[TakeOrder], why: str) -> Condition:
        pools = ", ".join(order.pool for order in orders)
        if how is Consistency.FROZEN:
            return Condition(
                reason="NotFrozen",
                message=f"Point {step.point} of guest {self._vmid} is of file systems in use, though a policy wants"
                f" them frozen: {why}. A VM needs qemu-guest-agent and its port (qm set {self._vmid} --agent 1). Mend"
                " that, or correct what is said (`qga`, `qmp`, `cgroup`, `pause` in the agent's settings), or do"
                " without: `consistency: paused` in the policy.",
            )
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
