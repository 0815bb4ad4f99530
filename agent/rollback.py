"""Brings a guest that this node owns back to a recovery point, under the guest's lock.

Guards invariants 1, 3 and 5: never while a process uses the guest's disks, and only as the owner under the epoch that
the store and the storage know; what the guest was before is snapshotted and set aside. Each round looks at what is
there (`planning.rollback`), so one that was interrupted goes on where it stood.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta

from holdfast.agent.context import Context
from holdfast.agent.moving import Mover
from holdfast.agent.outcomes import Outcomes
from holdfast.agent.ports import GuestHere, Refused, VolumesError
from holdfast.agent.taking import Taker
from holdfast.coordinator.model.answers import RollbackPreview
from holdfast.coordinator.model.capabilities import Capability, lacking
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.model.report import RequestState
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Scan, is_rbd, pool_of
from holdfast.coordinator.planning.protection import step_now
from holdfast.coordinator.planning.rollback import (
    Impossible,
    Move,
    begun,
    left_alone,
    moves,
    plan_moves,
    remaining,
    touched,
    would_lose,
)
from holdfast.coordinator.planning.snapshots import NO_OCCASION, Occasion
from holdfast.coordinator.store.locks import Held
from holdfast.coordinator.store.port import LeaseLost, Put, Store, unchanged
from pydantic import ValidationError

TOO_LATE = timedelta(minutes=10)
"""A request that could not be begun for so long is refused: whoever made it does not expect it any more."""
_LOOK = "Or look at a copy of the point: holdfast snapshot clone."


class Rollback:
    """One request, carried out under the lock."""

    def __init__(self, context: Context, store: Store, keys: Keyspace, outcomes: Outcomes, id: str, ask: Request):
        assert ask.at is not None
        self._context = context
        self._store = store
        self._keys = keys
        self._outcomes = outcomes
        self._id = id
        self._ask = ask
        self._vmid = ask.vmid
        self._to = PointId.parse(ask.at)

    async def run(self, held: Held) -> str:
        """Returns what was done. Raises Refused (nothing was changed, or another owner), VolumesError, StoreError."""
        owner = await self._begin(held)
        protection = self._context.view.protection(self._vmid)
        if protection is None:
            raise Refused("UnknownGuest", f"guest {self._vmid} is not known any more.")
        scan = await self._look(protection)
        point = self._point(scan, owner)
        wanted = moves(point, self._vmid, owner.epoch, self._id)
        begun_before = begun(wanted, scan)
        if not begun_before and self._context.host.now() - self._ask.asked > TOO_LATE:
            raise Refused(
                "TooLate", f"it was asked for at {self._ask.asked:%F %T %Z}. Ask again, if it is still to be."
            )
        if begun_before and remaining(wanted, scan) == []:
            return self._done(point, [m for m in wanted if m.aside in scan.volumes], scan)
        await self._check_unused(protection, point)
        if begun_before:
            same = left_alone(wanted, scan)
        else:
            if isinstance(planned := plan_moves(wanted, scan), Impossible):  # a record outlives its snapshots
                raise Refused(planned.reason, planned.message)
            scan, same = await self._keep_before(protection, owner, scan, point)
            await self._outcomes.begin(self._id, self._ask)
        wanted = [move for move in wanted if move.dataset not in same]
        pools = {pool_of(move.dataset) for move in wanted}
        await _Mover(self._context, self._vmid, owner, held, pools).move(wanted)
        return self._done(point, wanted, scan)

    async def _look(self, protection: Protection) -> Scan:
        """What is there. A request of which nothing was moved may be refused still, though an earlier life began it.

        Raises VolumesError where the guest's storage cannot be looked at: nothing follows from what was not seen.
        """
        scan = await self._context.scanner.look(self._vmid, 0)
        if unseen := scan.unseen(d.dataset for d in protection.disks):
            raise VolumesError(f"the guest's storage cannot be looked at: {next(iter(unseen.values()))}")
        if not scan.failed and not touched(self._id, scan):
            self._outcomes.begun.pop(self._id, None)
        return scan

    def _done(self, point: RecoveryPoint, moved: Sequence[Move], scan: Scan) -> str:
        said = f"guest {self._vmid} is as it was at point {self._to} of {point.instant:%F %T %Z}. "
        before = next((p.id for p in scan.recorded_points(self._vmid).values() if p.request == self._id), None)
        if before is not None:
            return f"{said}What it was before is point {before}, which stays until it is deleted."
        aside = ", ".join(move.aside for move in moved) or "nothing: nothing had been written since"
        return f"{said}Set aside: {aside}."

    async def _begin(self, held: Held) -> Owner:
        """That we own the guest, in the store's own words, and that we begin: in one transaction with the lock."""
        key = self._keys.owner(self._vmid)
        item = await self._store.get(key)
        try:
            owner = Owner.model_validate_json(item.value) if item else None
        except ValidationError:
            owner = None
        if item is None or owner is None or owner.node != self._context.me:
            raise Refused("NotOwner", f"{self._context.me} does not own guest {self._vmid}; ask its owner.")
        said = self._outcomes.say(self._id, RequestState.RUNNING, f"bringing guest {self._vmid} back to {self._to}")
        put = Put(self._keys.request_report(self._context.me, self._id), said.to_json())
        done = await held.transact([unchanged(key, item.mod_revision)], [put])
        if not done.succeeded:
            raise Refused("NotOwner", f"the owner of guest {self._vmid} changed at that moment. Ask again.")
        return owner

    def _point(self, scan: Scan, owner: Owner) -> RecoveryPoint:
        marked = scan.epoch_of(self._vmid)
        if marked > owner.epoch:
            raise Refused("EpochRefused", f"the storage is marked with epoch {marked}: another node owned the guest.")
        point = scan.recorded_points(self._vmid).get(self._to)
        if point is None:
            known = ", ".join(str(p.id) for p in scan.complete_points(self._vmid)) or "none"
            raise Refused("UnknownPoint", f"{self._context.me} has no point {self._to} of it (has: {known}).")
        if why := _impossible(point):
            raise Refused("NotPossible", f"{why} {_LOOK}")
        return point

    async def _check_unused(self, protection: Protection, point: RecoveryPoint) -> None:
        datasets = tuple(m.dataset for m in point.members)
        if users := await _users(self._context, protection, datasets):
            raise Refused("GuestRuns", f"its disks are in use by {', '.join(users[:5])}. Shut the guest down first.")

    async def _keep_before(
        self, protection: Protection, owner: Owner, scan: Scan, point: RecoveryPoint
    ) -> tuple[Scan, set[str]]:
        """Snapshot what the guest is now, all disks at one instant. Returns the datasets that are as at the point.

        On RBD nothing is kept aside, so this very point stays until somebody has it deleted.
        """
        if {m.dataset for m in point.members} != {d.dataset for d in protection.disks}:
            raise Refused(
                "OtherDisks",
                f"at point {self._to} it had other disks than now. Give it the same disks (qm set, pct set). {_LOOK}",
            )
        known = [id for anchor in scan.anchors_of(self._vmid) for id in anchor.sent.values()]
        stays = any(is_rbd(m.dataset) for m in point.members)
        why = Occasion(request=self._id, note=f"before the rollback to {self._to}") if stays else NO_OCCASION
        step = step_now(protection, owner.epoch, scan, self._context.host.now(), known, occasion=why)
        scan = await Taker(self._context, self._vmid, owner.epoch).take(step, protection, scan)
        before = {m.dataset: m.guid for m in scan.recorded_points(self._vmid)[step.point].members}
        return scan, {m.dataset for m in point.members if before.get(m.dataset) == m.guid}


class _Mover(Mover):
    """Only as long as the guest is ours, and its lock."""

    def __init__(self, context: Context, vmid: int, owner: Owner, held: Held, pools: Collection[str]) -> None:
        super().__init__(context.volumes, context.scanner, vmid, owner.epoch)
        self._view = context.view
        self._locks = context.locks
        self._pools = pools
        self._owner = owner
        self._held = held

    async def check(self) -> None:
        """Before each step. Refused or LeaseLost, or VolumesError."""
        if self._view.owner(self._vmid) != self._owner:
            raise Refused("NotOwner", f"guest {self._vmid} has another owner since; what is aside stays there.")
        if not self._held.valid():
            raise LeaseLost(f"the lock of guest {self._vmid} is not held any more")
        await self._locks.confirm(self._vmid, self._epoch, self._pools)


async def preview(context: Context, guests: Collection[int], vmid: int, to: PointId) -> RollbackPreview:
    """What a rollback would set aside, or why it would be refused. Raises VolumesError."""
    protection = context.view.protection(vmid) if vmid in guests else None
    if protection is None:
        return RollbackPreview(refused=f"{context.me} does not own guest {vmid}")
    scan = await context.scanner.look(vmid, 0)
    points = {p.id: p for p in scan.complete_points(vmid)}
    if to not in points:
        known = ", ".join(map(str, points)) or "none"
        return RollbackPreview(refused=f"{context.me} has no complete point {to} of guest {vmid} (has: {known})")
    datasets = tuple(m.dataset for m in points[to].members)
    if why := _impossible(points[to]):
        return RollbackPreview(refused=why)
    if users := await _users(context, protection, datasets):
        return RollbackPreview(refused=f"guest {vmid} runs: {', '.join(users[:5])} use its disks. Shut it down first")
    return RollbackPreview(loses=tuple(would_lose(points[to], scan, vmid)))


def _impossible(point: RecoveryPoint) -> str | None:
    """Why storage like this cannot go back to a point; None: it can.

    What a guest was before goes aside on ZFS and stays a point on RBD; of both, neither would be whole.
    """
    if why := next(filter(None, (lacking(m.dataset, Capability.ROLLBACK) for m in point.members)), None):
        return why
    if len({is_rbd(member.dataset) for member in point.members}) == 1:
        return None
    return "its disks are on ZFS and on RBD, and what it is now could not be kept in one piece."


async def _users(context: Context, protection: Protection, datasets: tuple[str, ...]) -> tuple[str, ...]:
    """Processes of this node, and clients of a shared storage."""
    here = await context.host.users(GuestHere(protection.vmid, protection.guest.type, datasets))
    return here + await context.volumes.clients(datasets)
