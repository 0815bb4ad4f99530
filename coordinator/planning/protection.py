"""Plans replication: when to take a recovery point, and what brings a target to it. Pure: no I/O, no clock.

Guards invariant 4, always incremental: the last point that a target committed, and the one that it is being brought to,
stay on the owner until the target has committed a later one. What may be let go is computed in `leftovers`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import TypeVar

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.model.snapshot_policy import Wish
from holdfast.coordinator.planning.assignment import Assignment, Disk, DiskMap, Protection
from holdfast.coordinator.planning.due import next_due, next_on_grid
from holdfast.coordinator.planning.kept import NO_RULES, Rules, worth_bringing
from holdfast.coordinator.planning.observed import Bookmark, Scan, Snapshot, Volume, is_aside, is_rbd, pool_of
from holdfast.coordinator.planning.snapshots import NO_OCCASION, Occasion
from holdfast.coordinator.planning.steps import (
    AbortPartial,
    Commit,
    DiskStep,
    ReturnTo,
    SendDisk,
    SetAside,
    Step,
    TakePoint,
)

AnyDisk = TypeVar("AnyDisk", Disk, DiskMap)

TXG_MARGIN = timedelta(seconds=10)
"""Two transaction groups (zfs_txg_timeout is 5 s): `written` shows a write only once its group is on disk."""
LOOK_AGAIN = timedelta(seconds=2.5)
"""Between looks at a guest of which a point is due while it is not known yet whether anything was written."""

MARGIN = 0.75
"""The part of an RPO in which the next point should be committed, if it takes as long as the last."""


@dataclass(frozen=True, slots=True)
class TargetVolume:
    """One dataset of a guest on a target, as the target told it."""

    dataset: str
    ours: bool
    guids: tuple[int, ...]
    """Of its snapshots, oldest first."""
    written: int
    resume_token: str | None
    resume_guid: int | None
    """GUID of the snapshot that a partial receive was bringing."""
    resume_base: int | None = None
    """GUID of what it was bringing it from; None: in full."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a target holds of one guest."""

    epoch: int
    points: tuple[RecoveryPoint, ...]
    """Complete there, oldest first."""
    volumes: Mapping[str, TargetVolume]

    @property
    def last(self) -> RecoveryPoint | None:
        """The newest complete point."""
        return self.points[-1] if self.points else None


@dataclass(frozen=True, slots=True)
class PointPlan:
    """Whether to take a point now. If not: when to look again, and since when nothing has been written, if so."""

    step: TakePoint | None
    due: datetime | None = None
    unchanged_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()
    """What keeps any point from being taken."""
    held_back: tuple[Condition, ...] = ()
    """What keeps snapshot policies from having theirs."""


def plan_point(
    protection: Protection,
    epoch: int,
    scan: Scan,
    waiting: Collection[str],
    now: datetime,
    zone: tzinfo,
    asked: datetime | None = None,
    committed: Collection[PointId] = (),
    took: Mapping[str, float] | None = None,
    occasion: Occasion = NO_OCCASION,
) -> PointPlan:
    """Decide on a new point of one guest.

    `waiting` are the targets that could take one up now: they are reachable and have committed all there is. Without
    one, a new point would only pile up. `asked` is the newest request for a point at once. `committed` is the last
    point of each target: where this node's pool was lost and made anew, it counts on from there, or nothing that it
    takes would ever be ahead of what the targets hold. `took` tells for each target how many seconds passed from its
    last point's instant to its commit. `occasion`: what a point is to be taken for besides, targets or not.
    """
    if not (protection.assignments or protection.snapshots or occasion):
        return PointPlan(None)
    if unseen := scan.unseen(d.dataset for d in protection.disks):
        return PointPlan(None, conditions=tuple(_unseen(protection.vmid, why) for why in unseen.values()))
    if missing := [d for d in protection.disks if d.dataset not in scan.volumes]:
        if under_way := _rollback_under_way(protection.vmid, protection.disks, scan):
            return PointPlan(None, conditions=(under_way,))
        return PointPlan(None, conditions=tuple(_missing(protection.vmid, d) for d in missing))
    if closed := closed_disks(protection.disks, scan):
        under_way = _rollback_under_way(protection.vmid, protection.disks, scan)
        return PointPlan(None, conditions=(under_way or _not_promoted(protection.vmid, closed),))
    latest = next(reversed(scan.complete_points(protection.vmid)), None)
    outrun = [p for p in committed if p.epoch == epoch and (latest is None or p > latest.id)]
    if occasion:
        step = step_now(protection, epoch, scan, now, outrun, waiting, occasion)
        return PointPlan(step, held_back=occasion.conditions)
    plan = _plan_replication(protection, latest, scan, waiting, now, zone, asked, took or {}, bool(outrun))
    if plan.due_at_once:
        step = step_now(protection, epoch, scan, now, outrun, waiting, occasion)
        return PointPlan(step, held_back=occasion.conditions)
    due = min((at for at in (plan.due, occasion.due) if at is not None), default=None)
    return PointPlan(None, due, plan.unchanged_at, held_back=occasion.conditions)


@dataclass(frozen=True, slots=True)
class _Replication:
    """Whether replication wants a point at once; if not, when to look again, and since when nothing was written."""

    due_at_once: bool
    due: datetime | None = None
    unchanged_at: datetime | None = None


def _plan_replication(
    protection: Protection,
    latest: RecoveryPoint | None,
    scan: Scan,
    waiting: Collection[str],
    now: datetime,
    zone: tzinfo,
    asked: datetime | None,
    took: Mapping[str, float],
    outrun: bool,
) -> _Replication:
    if not waiting:
        return _Replication(False)
    waiting_on = [a for a in protection.assignments if a.node in waiting]
    # A point from the future was dated by a clock that has been set back since: a new one is due at once.
    taken = latest.instant if latest and latest.instant <= now else None
    due = [d for a in waiting_on if (d := due_after(a, taken, zone, took.get(a.node, 0.0)))]
    changed = latest is None or outrun or _changed(protection, latest, scan)
    # A request by a clock ahead of ours waits for its time: a point taken before would never count as its answer.
    asked_for = [asked] if asked is not None and asked > now else []
    demanded = asked is not None and not asked_for and (latest is None or latest.instant < asked)
    if latest is None or demanded or (changed and due and min(due) <= now):
        return _Replication(True)
    if changed:
        return _Replication(False, min(due + asked_for, default=None))
    seen = min(scan.at, now) - TXG_MARGIN
    unchanged = max(seen, taken or seen)
    later = [d for a in waiting_on if (d := due_after(a, unchanged, zone, took.get(a.node, 0.0)))]
    look = min(later + asked_for, default=None)
    return _Replication(False, look and max(look, now + LOOK_AGAIN), unchanged)


def _unseen(vmid: int, why: str) -> Condition:
    return Condition(
        reason="StorageFailed",
        message=f"No point is taken of guest {vmid} while its storage cannot be looked at: {why}",
    )


def step_now(
    protection: Protection,
    epoch: int,
    scan: Scan,
    now: datetime,
    known: Collection[PointId] = (),
    waiting: Collection[str] = (),
    occasion: Occasion = NO_OCCASION,
) -> TakePoint:
    """A point of what the guest is now, whether one is due or not. `known`: numbers that are given elsewhere."""
    sequence = 1 + max((p.sequence for p in [*_seen(scan, protection), *known] if p.epoch == epoch), default=0)
    return TakePoint(
        protection.vmid,
        PointId(epoch, sequence),
        now,
        tuple((d.disk, d.volume, d.dataset) for d in protection.disks),
        protection.guest.digest,
        tuple(sorted(waiting)),
        occasion,
        _pauses(protection, occasion),
        occasion.asked is Wish.FROZEN,
    )


def _pauses(protection: Protection, occasion: Occasion) -> bool:
    """One ZFS pool's transaction group is an instant by itself; several pools have one only while the guest is paused.

    So have several RBD images: each is snapshotted by itself.
    """
    pools = {pool_of(d.dataset) for d in protection.disks}
    one_by_one = len(pools) > 1 or (len(protection.disks) > 1 and any(map(is_rbd, pools)))
    return one_by_one and (occasion.asked is not Wish.NONE or any(a.pause for a in protection.assignments))


def _missing(vmid: int, disk: Disk) -> Condition:
    return Condition(
        reason="VolumeMissing",
        message=f"Disk {disk.disk} of guest {vmid} should be {disk.dataset}, which is not on this node. Without it no"
        " point is taken; the last one stays. Create or import the volume, or correct the guest's disks.",
    )


def closed_disks(disks: Collection[AnyDisk], scan: Scan) -> list[AnyDisk]:
    """Disks of which the owner has only replicas: it has become the owner, and none of its points was promoted yet.

    Until then it takes, brings and lets go of nothing. Which point will be promoted is not known, and another node may
    have a newer one. The same for disks that are being rolled back: clones that have no history yet.
    """
    found = [(d, volume) for d in disks if (volume := scan.volumes.get(d.dataset))]
    return [d for d, v in found if "replica" in v.marks or v.half_received or _rolled_back(v)]


def _rolled_back(volume: Volume) -> bool:
    return volume.origin is not None and is_aside(volume.origin)


def _rollback_under_way(vmid: int, disks: Collection[AnyDisk], scan: Scan) -> Condition | None:
    """Some disks are aside still, without a clone in their place; or the clones have no history yet."""
    left = {v.dataset.rpartition("/")[2] for v in scan.asides(vmid) if v.origin is None and "-rollback-" in v.dataset}
    there = {d.dataset: scan.volumes.get(d.dataset) for d in disks}
    names = [
        name
        for name, volume in there.items()
        if (_rolled_back(volume) if volume else any(aside.endswith(f"-{name.rpartition('/')[2]}") for aside in left))
    ]
    if not names:
        return None
    return Condition(
        reason="RollbackUnderWay",
        message=f"Guest {vmid} is being rolled back ({', '.join(names)}): no point is taken until that has ended. It"
        " goes on by itself; the agent's log says what it waits for.",
    )


def _not_promoted(vmid: int, disks: list[Disk]) -> Condition:
    """Their heads are wherever the last transfer left each of them: a point of them would be a mixture."""
    names = ", ".join(d.dataset for d in disks)
    return Condition(
        reason="NotPromoted",
        message=f"This node owns guest {vmid}, but {names} are still replicas. No point is taken of them until one of"
        " their recovery points is promoted (holdfast points shows them).",
    )


def _seen(scan: Scan, protection: Protection) -> list[PointId]:
    """Every point whose number is taken: recorded, left behind as a snapshot, or known to a target of now or before."""
    anchors = scan.anchors_of(protection.vmid)
    recorded = [p.id for anchor in anchors for p in anchor.points] + [p for a in anchors for p in a.sent.values()]
    taken = [
        s.point
        for d in protection.disks
        if (volume := scan.volumes.get(d.dataset))
        for s in volume.snapshots
        if s.point
    ]
    return recorded + taken


def _changed(protection: Protection, latest: RecoveryPoint, scan: Scan) -> bool:
    """Whether a point taken now would differ from the latest."""
    if latest.definition != protection.guest.digest:
        return True
    if {m.disk: m.dataset for m in latest.members} != {d.disk: d.dataset for d in protection.disks}:
        return True
    for member in latest.members:
        volume = scan.volumes.get(member.dataset)
        if volume is None or volume.size != member.size or not volume.unchanged_since(member.guid):
            return True
    return False


def due_after(assignment: Assignment, last: datetime | None, zone: tzinfo, took: float = 0.0) -> datetime | None:
    """When the next point is to be taken after the moment `last`, of which there is one or nothing had changed until.

    Under an RPO that is half of it later, so that the transfer has the other half; on a grid of that width, so that
    guests of one policy fall due together and share a snapshot command. Where the last transfer took so long (seconds)
    that the RPO would be in danger, a quarter or an eighth.
    """
    last = last or datetime.fromtimestamp(0, zone)
    if assignment.rpo is None:
        return next_due(last, assignment.schedule, None, zone)
    widths = [assignment.rpo / part for part in (2, 4, 8)]
    width = next((w for w in widths if w + took <= MARGIN * assignment.rpo), widths[-1])
    return next_on_grid(last, width)


def deadline(assignment: Assignment, committed: RecoveryPoint | None, zone: tzinfo) -> datetime:
    """When the target's lag breaks the RPO (or misses the schedule): the nearest deadline is served first."""
    if committed is None:
        return datetime.fromtimestamp(0, zone)
    if assignment.rpo is not None:
        return committed.instant + timedelta(seconds=assignment.rpo)
    return due_after(assignment, committed.instant, zone) or committed.instant + timedelta(days=366)


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What brings one target up to date; `goal` None: there is nothing to bring."""

    goal: RecoveryPoint | None
    steps: tuple[Step, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def disks(self) -> list[list[DiskStep]]:
        """The steps of each disk in their order. Disks may be brought side by side; the commit comes after all."""
        found: dict[str, list[DiskStep]] = {}
        for step in self.steps:
            if isinstance(step, DiskStep):
                found.setdefault(step.disk.disk, []).append(step)
        return list(found.values())


def plan_target(
    assignment: Assignment, epoch: int, scan: Scan, inventory: Inventory, rules: Rules = NO_RULES
) -> TargetPlan:
    """Steps from what the target holds to the oldest point that it lacks and, by its `rules`, would keep.

    Oldest, because nothing leads back to one that was passed over. One that it has begun to receive, or has some disks
    of, is brought anyway: these cannot go on without it, and by our rules it may go once it is not the goal.
    """
    if closed_disks(assignment.disks, scan):
        under_way = _rollback_under_way(assignment.vmid, assignment.disks, scan)
        return TargetPlan(None, (), (_to(assignment.node, under_way) if under_way else _held_back(assignment),))
    last = inventory.last
    points = scan.complete_points(assignment.vmid)
    newer = [p for p in points if (last is None or p.id > last.id) and _applies(p, assignment)]
    wanted = {p.id for p in worth_bringing(newer, rules)} | _begun(newer, inventory)
    newer = [p for p in newer if p.id in wanted]
    ahead = [p for p in newer if not _overtaken(p, assignment, scan, inventory)]
    if not ahead:
        return TargetPlan(None, ())
    goal = ahead[0]
    disks = {disk.disk: disk for disk in assignment.disks}
    diverged = _set_aside(assignment.vmid, scan)
    steps: list[Step] = []
    conditions: list[Condition] = []
    for member in goal.members:
        disk = disks[member.disk]
        volume = scan.volumes[member.dataset]
        snapshot = volume.snapshot(member.guid)
        assert snapshot is not None, "a complete point has its members"
        there = inventory.volumes.get(disk.target_dataset)
        # RBD has no bookmarks: of a disk that the target's last point lacks the owner has let go of what came between
        forgotten = is_rbd(member.dataset) and last is not None and last.member(member.disk) is None
        steps_or_why = _bring(assignment, disk, volume, snapshot, there, diverged, forgotten=forgotten)
        if isinstance(steps_or_why, Condition):
            conditions.append(steps_or_why)
        else:
            steps += steps_or_why
    if conditions:
        return TargetPlan(goal, (), tuple(conditions))
    steps.append(Commit(assignment.vmid, assignment.node, goal.id, epoch))
    return TargetPlan(goal, tuple(steps))


def _to(node: str, condition: Condition) -> Condition:
    return condition.model_copy(update={"target": node})


def _held_back(assignment: Assignment) -> Condition:
    return Condition(
        reason="NotPromoted",
        target=assignment.node,
        message=f"This node owns guest {assignment.vmid}, but has only replicas of it. Nothing is brought to"
        f" {assignment.node}, whose points may be newer, until one of this node's is promoted (holdfast points shows"
        " them).",
    )


def _applies(point: RecoveryPoint, assignment: Assignment) -> bool:
    """Whether every member still is a disk that is replicated: a point with a disk that has gone is not brought."""
    return {(m.disk, m.dataset) for m in point.members} <= {(d.disk, d.dataset) for d in assignment.disks}


def _begun(newer: list[RecoveryPoint], inventory: Inventory) -> set[PointId]:
    """Of points that a target lacks (oldest first) those that it has some disks of, or half.

    An idle disk's snapshot is in several; what comes after the latest of them is what it is needed for.
    """
    had = {m.guid for m in inventory.last.members} if inventory.last else set()
    latest = {m.guid: point.id for point in newer for m in point.members if m.guid not in had}
    there = {guid for volume in inventory.volumes.values() for guid in (volume.resume_guid, *volume.guids[-1:])}
    return {id for guid, id in latest.items() if guid in there}


def _overtaken(point: RecoveryPoint, assignment: Assignment, scan: Scan, inventory: Inventory) -> bool:
    """Whether a replica's newest snapshot is later than the point's: nothing leads back, so a new point is needed.

    That is so where somebody destroyed our snapshots of a later point, of which some disks had been received, or where
    a disk was left out while a later point was brought, and came back before its commit.
    """
    targets = {disk.disk: disk.target_dataset for disk in assignment.disks}
    for member in point.members:
        there, volume = inventory.volumes.get(targets[member.disk]), scan.volumes[member.dataset]
        to = volume.snapshot(member.guid)
        if there is None or not there.guids or to is None or to.guid in there.guids:
            continue
        known: list[Snapshot | Bookmark] = [*volume.snapshots, *volume.bookmarks]
        if any(each.guid == there.guids[-1] and each.createtxg > to.createtxg for each in known):
            return True
    return False


def _set_aside(vmid: int, scan: Scan) -> set[int]:
    """GUIDs of the snapshots that went aside when the guest was rolled back: its replicas go back as well."""
    asides = [v for v in scan.asides(vmid) if not is_rbd(v.dataset)]  # on RBD that are replicas, not heads
    there: list[Snapshot | Bookmark] = [
        *(s for v in asides for s in v.snapshots),
        *(b for v in asides for b in v.bookmarks),
    ]
    return {each.guid for each in there if PointId.of_snapshot(each.name)}


def _bring(
    assignment: Assignment,
    disk: DiskMap,
    volume: Volume,
    to: Snapshot,
    there: TargetVolume | None,
    diverged: Collection[int],
    *,
    forgotten: bool,
) -> list[Step] | Condition:
    def send(base: str | None, token: str | None = None) -> SendDisk:
        return SendDisk(assignment.vmid, assignment.node, disk, to.name, to.guid, base, token, volume.encrypted)

    if there is None:
        return [send(None)]
    if to.guid in there.guids:
        return []
    if not there.ours:
        # zfs recv makes the dataset first and marks it a moment later: a power cut may come between
        if there.resume_guid and not there.guids and _base_name(volume, there.resume_guid):
            return [AbortPartial(assignment.vmid, assignment.node, disk, there.resume_guid), send(None)]
        return Condition(
            reason="TargetOccupied",
            target=assignment.node,
            message=f"{assignment.node} already has a dataset {there.dataset} that Holdfast did not make; it is left"
            f" alone. Rename it there, or map {disk.volume} to another storage.",
        )
    steps: list[Step] = []
    if there.resume_token is not None:
        if there.resume_guid == to.guid and (not there.resume_base or _base_name(volume, there.resume_base)):
            return [send(None, there.resume_token)]
        steps.append(AbortPartial(assignment.vmid, assignment.node, disk, there.resume_guid or 0))
        if not there.guids:
            return [*steps, send(None)]
    base = _base_name(volume, there.guids[-1]) if there.guids else None
    if base is not None:
        if there.written:
            return _modified(assignment, there)
        return [*steps, send(base)]
    common = [guid for guid in there.guids if volume.snapshot(guid)]
    if common and there.guids[-1] in diverged:  # so what it has in between is of what went aside, too
        goes_back = ReturnTo(assignment.vmid, assignment.node, disk, common[-1])
        return [*steps, goes_back, send(_base_name(volume, common[-1]))]
    if any(_base_name(volume, guid) for guid in there.guids) and not forgotten:
        return Condition(
            reason="ReplicaHasOtherSnapshots",
            target=assignment.node,
            message=f"{there.dataset} on {assignment.node} has snapshots newer than the last common one, so nothing"
            " can be received on top. List them (zfs list -t snapshot, rbd snap ls) and destroy those that you do not"
            " need; keep other snapshot tools away from replicas.",
        )
    return [*steps, SetAside(assignment.vmid, assignment.node, disk), send(None)]


def _modified(assignment: Assignment, there: TargetVolume) -> Condition:
    return Condition(
        reason="ReplicaModified",
        target=assignment.node,
        message=f"{there.dataset} on {assignment.node} was written to since its last point; that is left alone. Look"
        " at what was written; then roll it back to its newest snapshot (zfs rollback; rbd snap rollback, then"
        " rbd image-meta set IMAGE holdfast.rolled-back SNAPSHOT), and replication goes on.",
    )


def _base_name(volume: Volume, guid: int) -> str | None:
    """`@snapshot` or `#bookmark` of this GUID on the owner."""
    if snapshot := volume.snapshot(guid):
        return f"@{snapshot.name}"
    return next((f"#{b.name}" for b in volume.bookmarks if b.guid == guid), None)
