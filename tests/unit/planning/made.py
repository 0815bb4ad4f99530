"""Builds what planners look at: an owner's storage that points are taken on, and what a target tells of itself."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import Consistency, Member, PointId, RecoveryPoint
from holdfast.coordinator.planning.assignment import Assignment, Disk, DiskMap, Protection
from holdfast.coordinator.planning.leftovers import Cleanup, bookmarks_to_make
from holdfast.coordinator.planning.observed import Anchor, Bookmark, Scan, Snapshot, Volume, pool_of
from holdfast.coordinator.planning.protection import Inventory, TargetVolume

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
VMID = 101
GIB = 2**30
GUEST = Guest(type="qemu", definition="cores: 2\n")


def dataset(slot: str) -> str:
    """`fast…` slots lie on a pool of their own."""
    return f"{'fast' if slot.startswith('fast') else 'tank'}/vm-{VMID}-{slot}"


def disk_map(slot: str) -> DiskMap:
    return DiskMap(
        slot,
        f"local:vm-{VMID}-{slot}",
        dataset(slot),
        f"far:vm-{VMID}-{slot}",
        f"far/{dataset(slot).partition('/')[2]}",
    )


def assignment(
    node: str = "beta",
    slots: Iterable[str] = ("scsi0", "scsi1"),
    rpo: float | None = 60.0,
    schedule: str | None = None,
    keep: Keep = Keep(last=1),  # noqa: B008 - frozen
) -> Assignment:
    return Assignment(VMID, "p", node, tuple(disk_map(s) for s in slots), rpo, schedule, None, keep)


def protection(*assignments: Assignment, guest: Guest = GUEST) -> Protection:
    made = assignments or (assignment(),)
    return Protection(VMID, guest, made, (), tuple(Disk(d.disk, d.volume, d.dataset) for d in made[0].disks))


class Home:
    """The owner's storage of one guest, as far as plans see it. Destroying what is held, or is not there, fails."""

    def __init__(self, *slots: str) -> None:
        self.volumes: dict[str, Volume] = {}
        self.anchors: dict[tuple[str, int], Anchor] = {}
        self._numbers = itertools.count(1)
        for slot in slots or ("scsi0", "scsi1"):
            self.add(slot)

    def add(self, slot: str, **fields: object) -> None:
        made = Volume(dataset(slot), "volume", 7, GIB, 0, 0, 1, False, None, None, {})
        self.volumes[made.dataset] = replace(made, **fields)  # type: ignore[arg-type]

    def change(self, slot: str, **fields: object) -> None:
        self.volumes[dataset(slot)] = replace(self.volumes[dataset(slot)], **fields)  # type: ignore[arg-type]

    def write(self, *slots: str) -> None:
        for slot in slots:
            self.change(slot, written=4096)

    def snapshot(self, slot: str, name: str) -> Snapshot:
        number, volume = next(self._numbers), self.volumes[dataset(slot)]
        made = Snapshot(name, 0xABC000 + number, number, volume.written, 0, 0)
        self.change(slot, snapshots=(*volume.snapshots, made), written=0)
        return made

    def destroy(self, slot: str, guid: int) -> None:
        volume = self.volumes[dataset(slot)]
        self.change(slot, snapshots=tuple(s for s in volume.snapshots if s.guid != guid))

    def take(
        self, *slots: str, epoch: int = 1, at: datetime = NOON, definition: str = GUEST.digest, **fields: object
    ) -> RecoveryPoint:
        """As the channel program does: an idle disk's newest snapshot serves again."""
        slots = slots or tuple(v.dataset.rpartition("-")[2] for v in self.volumes.values())
        known = [p.id.sequence for a in self.anchors.values() for p in a.points if p.epoch == epoch]
        id = PointId(epoch, 1 + max(known, default=0))
        members = []
        for slot in slots:
            newest = self._unchanged(slot) or self.snapshot(slot, id.snapshot)
            where = disk_map(slot)
            members.append(
                Member(
                    disk=slot,
                    volume=where.volume,
                    dataset=where.dataset,
                    snapshot=newest.name,
                    guid=newest.guid,
                    size=self.volumes[where.dataset].size,
                )
            )
        point = RecoveryPoint(
            epoch=epoch,
            sequence=id.sequence,
            instant=at,
            consistency=Consistency.ATOMIC,
            definition=definition,
            disks=slots,
            members=tuple(members),
            **fields,  # type: ignore[arg-type]
        )
        for pool in {pool_of(m.dataset) for m in members}:
            here = point.model_copy(update={"members": tuple(m for m in members if pool_of(m.dataset) == pool)})
            anchor = self.anchors.get((pool, VMID)) or Anchor(pool, VMID, epoch)
            self.anchors[pool, VMID] = replace(
                anchor,
                epoch=epoch,
                points=(*anchor.points, here),
                definitions={**anchor.definitions, definition: "text"},
            )
        return point

    def _unchanged(self, slot: str) -> Snapshot | None:
        """The disk's snapshot of the latest point, if nothing was written since."""
        volume = self.volumes[dataset(slot)]
        latest = next((m for p in reversed(self.scan().complete_points(VMID)) if (m := p.member(slot))), None)
        return volume.snapshot(latest.guid) if latest and volume.unchanged_since(latest.guid) else None

    def sent(self, target: str, point: PointId) -> None:
        """As the channel program marks it."""
        committed = self.scan().recorded_points(VMID)[point]
        for key, anchor in self.anchors.items():
            for names in bookmarks_to_make(VMID, anchor.pool, self.scan(), committed, anchor.sent.get(target)):
                self.bookmark(*names)
            self.anchors[key] = replace(anchor, sent={**anchor.sent, target: point})

    def bookmark(self, snapshot: str, bookmark: str) -> None:
        volume = self.volumes[snapshot.partition("@")[0]]
        of = next((s for s in volume.snapshots if s.name == snapshot.partition("@")[2]), None)
        if of is not None and all(b.guid != of.guid for b in volume.bookmarks):
            made = Bookmark(bookmark.partition("#")[2], of.guid, of.createtxg)
            self.volumes[volume.dataset] = replace(volume, bookmarks=(*volume.bookmarks, made))

    def _snapshots(self, names: Iterable[str], holds: int | None) -> None:
        """Set the holds of snapshots, or destroy them: each must be there."""
        for name in names:
            where, _, short = name.partition("@")
            volume = self.volumes[where]
            [found] = [s for s in volume.snapshots if s.name == short]
            assert holds is not None or not found.holds, f"{name} is held"
            others = tuple(s for s in volume.snapshots if s is not found)
            made = others if holds is None else tuple(sorted((*others, replace(found, holds=holds)), key=_made))
            self.volumes[where] = replace(volume, snapshots=made)

    def carry_out(self, cleanup: Cleanup) -> None:
        self._snapshots(cleanup.hold, 1)
        self._snapshots(cleanup.release, 0)
        self._snapshots([d.snapshot for d in cleanup.destroy], None)
        for name in cleanup.drop_bookmarks:
            volume = self.volumes[name.partition("#")[0]]
            kept = tuple(b for b in volume.bookmarks if b.name != name.partition("#")[2])
            assert len(kept) < len(volume.bookmarks), f"{name} is not there"
            self.volumes[volume.dataset] = replace(volume, bookmarks=kept)
        for key, anchor in self.anchors.items():
            digests = {digest for digest, _ in cleanup.definitions}
            self.anchors[key] = replace(
                anchor,
                points=tuple(p for p in anchor.points if p.id not in cleanup.forget),
                definitions={d: text for d, text in anchor.definitions.items() if d not in digests},
            )

    def scan(self, at: datetime = NOON + timedelta(seconds=20)) -> Scan:
        return Scan(at, dict(self.volumes), dict(self.anchors))


def _made(snapshot: Snapshot) -> int:
    return snapshot.createtxg


def there(slot: str, *guids: int, **fields: object) -> TargetVolume:
    made = TargetVolume(disk_map(slot).target_dataset, True, guids, 0, None, None)
    return replace(made, **fields)  # type: ignore[arg-type]


def holding(*points: RecoveryPoint, volumes: Iterable[TargetVolume] = ()) -> Inventory:
    """A target that has committed these points; `volumes` replaces what its datasets are then."""
    guids: dict[str, list[int]] = {}
    for point in points:
        for member in point.members:
            seen = guids.setdefault(member.disk, [])
            seen += [member.guid] if member.guid not in seen else []
    known = {v.dataset: v for v in (there(slot, *found) for slot, found in guids.items())}
    return Inventory(1, points, known | {v.dataset: v for v in volumes})
