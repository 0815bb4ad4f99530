"""Makes and destroys copies of points on this node, whether it owns the guest or holds a replica of it."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from holdfast.agent.context import Context
from holdfast.agent.ports import CopyOrder, Refused, VolumesError
from holdfast.coordinator.model.capabilities import Capability, lacking
from holdfast.coordinator.model.point import Member, PointId, RecoveryPoint
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.copies import Copy, CopyMark, copies, dataset, folder, has_files, missing, where
from holdfast.coordinator.planning.observed import Scan, pool_of


async def make(context: Context, ask: Request) -> str:
    """Clone, or mount, a point. Returns what there is then. Raises Refused or VolumesError."""
    assert ask.at is not None
    assert ask.name is not None
    scan = await context.scanner.look(ask.vmid, 0)
    point = _point(context, scan, ask.vmid, PointId.parse(ask.at))
    if why := next(filter(None, (lacking(each.dataset, _wanted(ask)) for each in point.members)), None):
        raise Refused("NotPossible", why)
    found = copies(scan).get((ask.vmid, ask.name))
    if found is not None and (found.point != ask.at or (found.until is None) != (ask.seconds is None)):
        raise Refused("NameTaken", f"guest {ask.vmid} has another copy {ask.name}, of point {found.point}.")
    until = ask.asked + timedelta(seconds=ask.seconds) if ask.seconds is not None else None
    context.scanner.changed(ask.vmid)
    await _confirm(context, ask.vmid, [each.dataset for each in point.members])
    lacks, made = missing(found, point), []
    try:
        for member in point.members:
            order = _order(ask, member, scan, until)
            if member.disk in lacks:
                await context.volumes.make_copy(order)
                made.append(order.dataset)
            if until is not None:
                await context.volumes.show_copy(order)
    except Refused:  # for good: nothing of it is to stay
        for gone in made:
            await context.volumes.drop_copy(gone)
        raise
    return await _seen(context, ask.vmid, ask.name)


def _order(ask: Request, member: Member, scan: Scan, until: datetime | None) -> CopyOrder:
    assert ask.at is not None
    assert ask.name is not None
    mark = CopyMark(vmid=ask.vmid, name=ask.name, point=ask.at, disk=member.disk, until=until)
    return CopyOrder(
        snapshot=member.full_name,
        dataset=dataset(ask.vmid, ask.name, member.dataset),
        kind="filesystem" if has_files(scan.volumes[member.dataset], member.disk) else "volume",
        mark=mark.model_dump_json(exclude_none=True),
        folder=folder(ask.vmid, ask.name, member.disk) if until is not None else None,
    )


async def flatten(context: Context, ask: Request) -> str:
    """Let a copy that was made need its point no more. Returns what there is then. Raises Refused or VolumesError.

    Not under the guest's lock: nothing of the guest is changed, and no point could be taken meanwhile.
    """
    assert ask.name is not None
    scan = await context.scanner.look(ask.vmid, 0)
    found = copies(scan).get((ask.vmid, ask.name))
    if found is None:
        raise Refused("UnknownCopy", f"copy {ask.name} of guest {ask.vmid} was removed before it was flattened.")
    for each in found.datasets.values():
        await context.volumes.flatten_copy(each)
    return await _seen(context, ask.vmid, ask.name)


def _wanted(ask: Request) -> Capability:
    if ask.flatten:
        return Capability.FLATTEN
    return Capability.CLONE if ask.seconds is None else Capability.MOUNT


async def _seen(context: Context, vmid: int, name: str) -> str:
    context.scanner.changed(vmid)
    scan = await context.scanner.look(vmid, 0)
    context.report()
    copy = copies(scan).get((vmid, name))
    if copy is None:
        raise VolumesError(f"copy {name} of guest {vmid} is not seen; it is looked for again.")
    return _described(copy, scan)


async def destroy(context: Context, vmid: int, name: str) -> str:
    """Destroy a copy. Returns that it has gone. Raises Refused or VolumesError, as while somebody uses it."""
    scan = await context.scanner.look(vmid, 0)
    found = copies(scan).get((vmid, name))
    if found is None:
        raise Refused("UnknownCopy", f"{context.me} has no copy {name} of guest {vmid}.")
    context.scanner.changed(vmid)
    await _confirm(context, vmid, found.datasets.values())
    for gone in found.datasets.values():
        await context.volumes.drop_copy(gone)
    context.scanner.changed(vmid)
    await context.scanner.look(vmid, 0)
    context.report()
    return f"copy {name} of guest {vmid} is destroyed."


async def _confirm(context: Context, vmid: int, datasets: Iterable[str]) -> None:
    """On shared storage the owner changes nothing whose lock another has got meanwhile."""
    owner = context.view.owner(vmid)
    if owner is not None:
        await context.locks.confirm(vmid, owner.epoch, map(pool_of, datasets))


def _point(context: Context, scan: Scan, vmid: int, id: PointId) -> RecoveryPoint:
    points = {p.id: p for p in scan.complete_points(vmid)}
    if id not in points:
        known = ", ".join(map(str, points)) or "none"
        raise Refused("UnknownPoint", f"{context.me} has no complete point {id} of guest {vmid} (has: {known}).")
    return points[id]


def _described(copy: Copy, scan: Scan) -> str:
    lines = ", ".join(f"{slot}: {place}" for slot, place in where(copy, scan.volumes).items())
    until = f", until {copy.until:%F %T %Z}" if copy.until else ""
    needs = "" if copy.needs_point else ", and does not need the point"
    return f"point {copy.point} of guest {copy.vmid} is there as {copy.name}{until}{needs}: {lines}"
