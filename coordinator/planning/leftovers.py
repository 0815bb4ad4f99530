"""What the owner still needs of its snapshots and bookmarks, and what it may let go. Pure.

Guards invariants 3 and 4. A snapshot is let go only if a point's record on the same storage lists its GUID (a name
proves nothing), it is older than the guest's newest complete point, and no target needs it: neither as the last one it
committed nor as the next one it is to receive; and no rule keeps a point that has it (`kept`). A bookmark of the last
committed one stays besides, also for a target that no policy names any more.

Of a disk that this one lacks (it was pulled out of the guest), all bookmarks up to it stay: the target may still have
its replica, and the disk may come back. Its snapshots go, for they would fill the pool and keep its volume from being
destroyed; a failback has no use for them, because the point that it leads to has no such disk.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.copies import copies
from holdfast.coordinator.planning.kept import NO_RULES, Rules, kept, worth_bringing
from holdfast.coordinator.planning.observed import Scan, Volume, pool_of


@dataclass(frozen=True, slots=True, order=True)
class Doomed:
    """A snapshot to be destroyed: only if it still has this GUID."""

    snapshot: str
    guid: int


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What to hold, release and destroy for one guest on its owner (bookmarks are made when a target commits)."""

    vmid: int
    hold: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    destroy: tuple[Doomed, ...] = ()
    drop_bookmarks: tuple[str, ...] = ()
    forget: tuple[PointId, ...] = ()
    """Records of points that are not complete any more, or of no use."""
    definitions: tuple[tuple[str, str], ...] = ()
    """(digest, text) of definitions that no point needs any more."""

    def __bool__(self) -> bool:
        return bool(self.hold or self.release or self.destroy or self.drop_bookmarks or self.forget)


def needs(
    points: list[RecoveryPoint],
    sent: Mapping[str, PointId],
    targets: Collection[str],
    in_use: Collection[PointId] = (),
    rules: Rules = NO_RULES,
) -> dict[PointId, tuple[str, ...]]:
    """Of the owner's complete points (oldest first) those that replication needs, each with what for, in words.

    The newest, each target's last and next, and what is in use: what is marked as committed may be older than what a
    target has and is brought to. Where the next has a disk that the guest has no more, it may have been begun, but the
    next without it is brought instead; and so on where that loses a disk in its turn. So the next of every set of disks
    counts. While no target is in force, those of before count: their policy may come back. Without any, the newest may
    go as well, if somebody wants that.
    """
    found: defaultdict[PointId, list[str]] = defaultdict(list)
    if not points:
        return {}
    targets = targets or sent.keys()
    if targets or not rules.lets_go(points[-1]):
        found[points[-1].id].append("the newest")
    for target in sorted(targets):
        last = sent.get(target)
        if last is not None:
            found[last].append(f"what {target} has")
        ahead = [p for p in points if last is None or p.id > last]
        begun = [p for p in ahead if _disks(p) != _disks(points[-1])]  # perhaps, before a later one overtook it
        ahead = worth_bringing(ahead, rules.at_targets.get(target, NO_RULES))
        for id in {p.id for p in (*_first_of_each(begun), *_first_of_each(ahead))}:
            found[id].append(f"what {target} gets next")
    for id in in_use:
        if id not in found:
            found[id].append("under way")
    return {p.id: tuple(found[p.id]) for p in points if p.id in found}


def _first_of_each(points: list[RecoveryPoint]) -> list[RecoveryPoint]:
    """The oldest of every set of disks."""
    return [*{_disks(p): p for p in reversed(points)}.values()]


def _disks(point: RecoveryPoint) -> frozenset[tuple[str, str]]:
    return frozenset((m.disk, m.dataset) for m in point.members)


def bookmarks_to_make(
    vmid: int, pool: str, scan: Scan, committed: RecoveryPoint, before: PointId | None
) -> list[tuple[str, str]]:
    """(snapshot, bookmark) on a pool that are to outlive the snapshots of a point which a target has committed.

    Its members, and what there is of disks that it lacks: the target may have received that before they went, but since
    `before`, the point that it is marked to have; what it had then has its bookmarks.
    """
    has = {m.dataset for m in committed.members}
    since = before or PointId(0, 0)
    earlier = [p for p in scan.recorded_points(vmid).values() if since <= p.id < committed.id]
    left_out = [m for p in earlier for m in p.members if m.dataset not in has]
    return [
        (m.full_name, f"{m.dataset}#{m.snapshot}")
        for m in {m.guid: m for m in (*committed.members, *left_out) if pool_of(m.dataset) == pool}.values()
        if (volume := scan.volumes.get(m.dataset))
        and volume.snapshot(m.guid)
        and not any(b.guid == m.guid for b in volume.bookmarks)
    ]


def sent_marks(vmid: int, scan: Scan) -> dict[str, PointId]:
    """Target → the last point that it is marked to have committed."""
    return {target: id for anchor in scan.anchors_of(vmid) for target, id in anchor.sent.items()}


def kept_here(vmid: int, scan: Scan, rules: Rules) -> dict[PointId, tuple[str, ...]]:
    """Points that stay besides, each with why, also those of which a disk has gone, for what is left of them."""
    points = [p for p in scan.recorded_points(vmid).values() if scan.guids(p)]
    whole = {p.id for p in scan.complete_points(vmid)}
    found = {id: [*why] for id, why in kept(points, rules, whole).items()}
    for id in copied(vmid, points, scan):
        found.setdefault(id, []).append("a copy")
    for id in _to_go_back_to(vmid, points, scan):
        found.setdefault(id, []).append("a replica may go back to it")
    return {id: tuple(why) for id, why in found.items()}


def _to_go_back_to(vmid: int, points: Collection[RecoveryPoint], scan: Scan) -> set[PointId]:
    """After a rollback, points that targets may have in common with us: each has a later one, which went aside here."""
    here = {p.id for p in scan.complete_points(vmid)}
    later = [id for id in sent_marks(vmid, scan).values() if id not in here] if scan.asides(vmid) else []
    return {p.id for p in points if later and p.id < max(later)}


def copied(vmid: int, points: Collection[RecoveryPoint], scan: Scan) -> set[PointId]:
    """Points that stay for a copy, or for what a rollback has set aside. With other people's clones it is up to them.

    That of which a copy was made; and of those that have the snapshot which a clone needs, the newest: an idle disk's
    is in every one.
    """
    here = [copy for copy in copies(scan).values() if copy.vmid == vmid]
    found = {PointId.parse(copy.point) for copy in here if copy.needs_point}
    for origin in [origin for origin, clones in scan.origins().items() if any(map(is_ours, clones))]:
        having = [p.id for p in points if any(m.full_name == origin for m in p.members)]
        found |= {max(having)} if having else set()
    return found & {p.id for p in points}


def is_ours(dataset: str) -> bool:
    """Whether it lies where only Holdfast makes datasets."""
    return dataset.split("/")[1:2] == ["holdfast"]


def plan_cleanup(
    vmid: int,
    scan: Scan,
    targets: Collection[str],
    in_use: Collection[PointId] = (),
    rules: Rules = NO_RULES,
) -> Cleanup:
    """What may go of one guest's snapshots and bookmarks on this node, which owns it. `in_use`: see needs."""
    points = scan.complete_points(vmid)
    if not points:
        return Cleanup(vmid)
    sent = sent_marks(vmid, scan)
    staying = needs(points, sent, targets, in_use, rules).keys() | kept_here(vmid, scan, rules).keys()
    kept_guids = {m.guid for p in scan.recorded_points(vmid).values() if p.id in staying for m in p.members}
    recorded = [p for anchor in scan.anchors_of(vmid) for p in anchor.points]
    reserve = {m.guid for p in recorded if p.id in set(sent.values()) for m in p.members}
    datasets = sorted({m.dataset for p in recorded for m in p.members} & scan.volumes.keys())
    ours = {m.guid for p in recorded for m in p.members}
    has = {id: {m.dataset for m in point.members} for id, point in scan.recorded_points(vmid).items()}
    parts = [
        _volume(
            scan.volumes[dataset],
            ours,
            kept_guids,
            reserve,
            points[-1].id,
            max((id for id in sent.values() if dataset not in has.get(id, ())), default=None),
        )
        for dataset in datasets
    ]
    kept_ids = staying | set(sent.values())
    forget = tuple(sorted({p.id for p in recorded if p.id not in kept_ids and p.id <= points[-1].id}))
    return Cleanup(
        vmid,
        hold=tuple(x for p in parts for x in p.hold),
        release=tuple(x for p in parts for x in p.release),
        destroy=tuple(x for p in parts for x in p.destroy),
        drop_bookmarks=tuple(x for p in parts for x in p.drop_bookmarks),
        forget=forget,
        definitions=unused_definitions(scan, vmid, [p for p in recorded if p.id not in forget]) if forget else (),
    )


def cleaned(scan: Scan, cleanup: Cleanup) -> Scan:
    """What a scan would show after the clean-up was carried out, as far as plans look at it."""
    scan = scan.without(cleanup.vmid, {d.guid for d in cleanup.destroy}, cleanup.forget)
    named = {h.partition("@")[0] for h in cleanup.hold} | {b.partition("#")[0] for b in cleanup.drop_bookmarks}
    return replace(scan, volumes={**scan.volumes, **{name: _cleaned(scan.volumes[name], cleanup) for name in named}})


def _cleaned(volume: Volume, cleanup: Cleanup) -> Volume:
    bookmarks = tuple(b for b in volume.bookmarks if f"{volume.dataset}#{b.name}" not in cleanup.drop_bookmarks)
    snapshots = tuple(
        replace(s, holds=1) if f"{volume.dataset}@{s.name}" in cleanup.hold else s for s in volume.snapshots
    )
    return replace(volume, bookmarks=bookmarks, snapshots=snapshots)


def unused_definitions(scan: Scan, vmid: int, kept: list[RecoveryPoint]) -> tuple[tuple[str, str], ...]:
    """(digest, text) of what is recorded for a guest but of no point that is kept."""
    used = {p.definition for p in kept}
    found = {d: text for anchor in scan.anchors_of(vmid) for d, text in anchor.definitions.items() if d not in used}
    return tuple(sorted(found.items()))


def _volume(
    volume: Volume, ours: set[int], kept: set[int], reserve: set[int], newest: PointId, left_out: PointId | None
) -> Cleanup:
    """`left_out`: the latest point that a target has as its last one and that lacks this disk."""
    hold, release, destroy = [], [], []
    for snapshot in volume.snapshots:
        name = f"{volume.dataset}@{snapshot.name}"
        if snapshot.guid in kept:
            if not snapshot.holds:
                hold.append(name)
        elif snapshot.guid in ours and snapshot.point is not None and snapshot.point <= newest:
            if snapshot.holds:
                release.append(name)
            destroy.append(Doomed(name, snapshot.guid))
    gone = [
        f"{volume.dataset}#{b.name}"
        for b in volume.bookmarks
        if (point := PointId.of_snapshot(b.name)) and reserve and b.guid not in reserve
        if left_out is None or point > left_out
    ]
    return Cleanup(0, tuple(hold), tuple(release), tuple(destroy), tuple(gone))
