"""Plans how a guest is brought back to a point on its owner, and a replica after it. Pure.

Guards invariant 3, nothing lost, and invariant 2, no mixture:

1. Nothing is rolled over: each changed head is renamed aside, and the point is cloned under the head's name, which then
   takes the history up to the point over (zfs-promote(8)). What came later stays with the aside.
2. All heads are renamed before the first clone is made: from then until the last clone is there the guest lacks a disk,
   so it cannot be started from some disks of before and some of the point.
3. The asides' names say what they are for: what is on the pool tells how far it is, after any crash.

RBD has no promote. There the heads go aside as well, are rolled back as they lie there, and only when all of them are
do they get their names again. What the guest was before is a point like any other, which stays.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.planning.observed import Scan, Snapshot, Volume, is_rbd, pool_of


@dataclass(frozen=True, slots=True)
class PutAside:
    """Rename a head out of the way, and close it."""

    dataset: str
    aside: str

    def __str__(self) -> str:
        return f"set {self.dataset} aside as {self.aside}"


@dataclass(frozen=True, slots=True)
class CloneBack:
    """Clone a snapshot of what was set aside under the head's name, with the head's properties."""

    snapshot: str
    dataset: str

    def __str__(self) -> str:
        return f"make {self.dataset} of {self.snapshot}"


@dataclass(frozen=True, slots=True)
class Promote:
    """Let the clone have the history that it comes from."""

    dataset: str
    snapshot: str
    guid: int

    def __str__(self) -> str:
        return f"promote {self.dataset}"


@dataclass(frozen=True, slots=True)
class RollBack:
    """On RBD: let what lies aside be what its snapshot is, and mark it as `mark`."""

    aside: str
    snapshot: str
    guid: int
    mark: str

    def __str__(self) -> str:
        return f"roll {self.aside} back to {self.snapshot}"


@dataclass(frozen=True, slots=True)
class PutBack:
    """On RBD: give what was rolled back its name again."""

    aside: str
    dataset: str

    def __str__(self) -> str:
        return f"rename {self.aside} back to {self.dataset}"


RollbackStep = PutAside | CloneBack | Promote | RollBack | PutBack


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why a guest cannot be brought back to a point."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Move:
    """One dataset that is to be what its snapshot is; what it is now goes aside."""

    dataset: str
    aside: str
    snapshot: str
    """The short name."""
    guid: int


def aside_name(dataset: str, vmid: int, epoch: int, reason: str) -> str:
    """Where a head goes; one name for one reason."""
    if is_rbd(dataset):  # which has no folders
        return f"{pool_of(dataset)}/holdfast.aside.{vmid}-e{epoch}-{reason}-{dataset.rpartition('/')[2]}"
    return f"{pool_of(dataset)}/holdfast/aside/{vmid}-e{epoch}-{reason}-{dataset.rpartition('/')[2]}"


def moves(point: RecoveryPoint, vmid: int, epoch: int, request: str) -> list[Move]:
    """What a request to bring a guest back to a point is about."""
    return [
        Move(m.dataset, aside_name(m.dataset, vmid, epoch, request), m.snapshot, m.guid)
        for m in sorted(point.members, key=lambda m: m.disk)
    ]


def begun(moves: Sequence[Move], scan: Scan) -> bool:
    """Whether any of it was done."""
    return any(_reached(move, scan) for move in moves)


def touched(request: str, scan: Scan) -> bool:
    """Whether anything was moved for a request, of whatever point and under whatever epoch: asides bear its name."""
    return any(f"-{request}-" in f"{v.dataset} {v.marks.get('back', '')}" for v in scan.volumes.values())


def _reached(move: Move, scan: Scan) -> bool:
    return move.aside in scan.volumes or _is_back(move, scan.volumes.get(move.dataset))


def _is_back(move: Move, volume: Volume | None) -> bool:
    """Whether an image was rolled back by this move."""
    return volume is not None and volume.marks.get("back") == back_mark(move)


def back_mark(move: Move) -> str:
    """What an image bears once it was rolled back by a move; another move is another reason."""
    return f"{move.guid} {move.aside.rpartition('/')[2]}"


def remaining(moves: Sequence[Move], scan: Scan) -> list[RollbackStep] | Impossible:
    """What is left of those that were reached."""
    return plan_moves([move for move in moves if _reached(move, scan)], scan)


def left_alone(moves: Sequence[Move], scan: Scan) -> set[str]:
    """Datasets that an earlier life found unchanged: before it made the first clone, it had moved every other one."""
    cloning = any(move.aside in scan.volumes and move.dataset in scan.volumes for move in moves)
    back = any(_is_back(move, scan.volumes.get(where)) for move in moves for where in (move.aside, move.dataset))
    return {move.dataset for move in moves if not _reached(move, scan)} if cloning or back else set()


def plan_moves(moves: Sequence[Move], scan: Scan) -> list[RollbackStep] | Impossible:
    """What is left to be done, in this order; nothing: each dataset is what its snapshot is, or came from it."""
    steps: list[RollbackStep] = []
    for move in moves:
        planned = _plan_image(move, scan) if is_rbd(move.dataset) else _plan_zfs(move, scan)
        if isinstance(planned, Impossible):
            return planned
        steps += planned
    return sorted(steps, key=lambda step: _ORDER.index(type(step)))


_ORDER = (PutAside, CloneBack, RollBack, Promote, PutBack)
"""Until the last step of one kind was done, none of the next is: see the rules above."""


def _plan_zfs(move: Move, scan: Scan) -> list[RollbackStep] | Impossible:
    head, old = scan.volumes.get(move.dataset), scan.volumes.get(move.aside)
    source = f"{move.aside}@{move.snapshot}"
    holder = old if old is not None and (head is None or _is_clone(head, old)) else head
    if holder is None or holder.snapshot(move.guid) is None:
        return _lost(move, holder)
    steps: list[RollbackStep] = []
    if old is None:
        steps.append(PutAside(move.dataset, move.aside))
    if old is None or head is None:
        steps.append(CloneBack(source, move.dataset))
    if holder is old or old is None:
        steps.append(Promote(move.dataset, source, move.guid))
    return steps


def _plan_image(move: Move, scan: Scan) -> list[RollbackStep] | Impossible:
    head, old = scan.volumes.get(move.dataset), scan.volumes.get(move.aside)
    if old is None and _is_back(move, head):
        return []
    holder = old or head
    if holder is None or holder.snapshot(move.guid) is None or (head is not None and old is not None):
        return _lost(move, holder)
    steps: list[RollbackStep] = []
    if old is None:
        steps.append(PutAside(move.dataset, move.aside))
    if not _is_back(move, old):
        steps.append(RollBack(move.aside, move.snapshot, move.guid, back_mark(move)))
    return [*steps, PutBack(move.aside, move.dataset)]


def _is_clone(head: Volume, old: Volume) -> bool:
    return head.origin is not None and head.origin.partition("@")[0] == old.dataset


def _lost(move: Move, holder: Volume | None) -> Impossible:
    where = f"{holder.dataset} does not have" if holder else f"neither {move.dataset} nor {move.aside} is there to have"
    return Impossible(
        "SnapshotMissing",
        f"{where} the snapshot {move.snapshot}, or there are two of it. Look at what lies aside (holdfast leftovers);"
        " nothing was destroyed.",
    )


def return_move(dataset: str, vmid: int, epoch: int, base: Snapshot, newest: Snapshot) -> Move:
    """A replica goes back to `base`, as its source did; the aside's name says from where to where."""
    return Move(dataset, aside_name(dataset, vmid, epoch, f"back-{base.guid}-{newest.guid}"), base.name, base.guid)


def unfinished_return(dataset: str, vmid: int, scan: Scan) -> Move | None:
    """The return of a replica that was begun and not ended, if there is one."""
    head = scan.volumes.get(dataset)
    if head is not None and head.origin is None:
        return None
    pool, name = pool_of(dataset), dataset.rpartition("/")[2]
    pattern = re.compile(rf"{re.escape(pool)}/holdfast/aside/{vmid}-e[0-9]+-back-([0-9]+)-[0-9]+-{re.escape(name)}\Z")
    for volume in scan.volumes.values():
        match = pattern.match(volume.dataset)
        base = volume.snapshot(int(match[1])) if match else None
        if base is not None and (head is None or _is_clone(head, volume)):
            return Move(dataset, volume.dataset, base.name, base.guid)
    return None


def would_lose(point: RecoveryPoint, scan: Scan, vmid: int) -> list[str]:
    """For a person, before they confirm: what the guest will no longer have, and where it will be."""
    stays = any(is_rbd(member.dataset) for member in point.members)
    goes = "leave the guest and stay in its points" if stays else "go aside"
    later = [] if stays else [p for p in scan.complete_points(vmid) if p.id > point.id]
    said = [f"point {p.id} of {p.instant:%F %T %Z} goes aside" for p in later]
    for member in point.members:
        volume = scan.volumes.get(member.dataset)
        if volume is None or volume.unchanged_since(member.guid):
            continue
        after = [s for s in volume.snapshots if s.createtxg > _txg(volume, member.guid)]
        written = volume.written + sum(s.written for s in after)
        others = [s.name for s in after if s.point is None]
        kept = f", with the snapshots {', '.join(others)}" if others and not stays else ""
        said.append(f"{member.disk}: {written} bytes written since {goes}{kept} ({member.dataset})")
    return said


def _txg(volume: Volume, guid: int) -> int:
    snapshot = volume.snapshot(guid)
    return snapshot.createtxg if snapshot else 0
