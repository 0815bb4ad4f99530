"""What was seen on a node's storage: plain data, from which every plan is computed."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from holdfast.coordinator.model.point import PointId, RecoveryPoint

CONTENT_PROPERTIES = frozenset(
    {"refquota", "quota", "acltype", "aclmode", "aclinherit", "xattr", "atime", "relatime", "devices", "exec"}
    | {"setuid", "recordsize", "compression"}
)
"""What of a container's volume belongs to the volume itself, and is set on its replica as well."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of one volume; `holds` counts its user references."""

    name: str
    guid: int
    createtxg: int
    written: int
    """Bytes written since the snapshot before it."""
    used: int
    holds: int

    @property
    def point(self) -> PointId | None:
        """The recovery point that it was taken for, if Holdfast took it."""
        return PointId.of_snapshot(self.name)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A bookmark; `guid` is that of the snapshot that it stands for."""

    name: str
    guid: int
    createtxg: int


@dataclass(frozen=True, slots=True)
class MirrorSite:
    """How far rbd-mirror is with one copy of an image."""

    state: str
    """In rbd-mirror's words: `replaying`, `syncing`, `stopped`, `error`, `unknown` …"""
    up: bool
    """Whether the daemon that brings it reports."""
    at: datetime | None
    """The instant of which it has everything; None: it does not tell."""
    detail: str = ""
    """What else rbd-mirror says."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """That another tool, rbd-mirror, keeps copies of an image on other clusters."""

    primary: bool
    """Whether this is the image that the others follow."""
    sites: tuple[MirrorSite, ...] = ()
    """The copies, as far as they report; of a copy itself."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A zvol or a filesystem. Snapshots and bookmarks in the order in which they were made."""

    dataset: str
    kind: str
    """`volume` or `filesystem`, as zfs(8) says."""
    guid: int
    size: int
    """Bytes: volsize, or refquota, or what is referenced where there is no quota."""
    used: int
    referenced: int
    written: int
    """Bytes in the head since the newest snapshot; 0: the head is that snapshot."""
    encrypted: bool
    resume_token: str | None
    resume_guid: int | None
    """GUID of the snapshot that a half-received stream was bringing."""
    marks: Mapping[str, str]
    """Our user properties that are set on this very dataset (source `local`), without the `holdfast:` prefix."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Native properties that are set locally and belong to the content of a container's volume."""
    snapshots: tuple[Snapshot, ...] = ()
    bookmarks: tuple[Bookmark, ...] = ()
    resume_base: int | None = None
    """GUID of the snapshot from which it was bringing it; None: in full."""
    origin: str | None = None
    """`dataset@snapshot` that it is a clone of."""
    mirror: Mirror | None = None
    device: str | None = None
    """Of a copy on RBD: by which the kernel has it here."""

    @property
    def replica_of(self) -> int | None:
        """The guest of which this is a replica of ours, by its mark."""
        vmid = self.marks.get("replica", "").partition("/")[0]
        return int(vmid) if vmid.isdecimal() else None

    @property
    def half_received(self) -> bool:
        """Whether it was made by a first stream that is not whole yet; it may not bear its mark yet."""
        return self.resume_token is not None and not self.snapshots

    @property
    def newest(self) -> Snapshot | None:
        """The newest snapshot."""
        return self.snapshots[-1] if self.snapshots else None

    def snapshot(self, guid: int) -> Snapshot | None:
        """The snapshot of this GUID."""
        for snapshot in self.snapshots:
            if snapshot.guid == guid:
                return snapshot
        return None

    def unchanged_since(self, guid: int) -> bool:
        """Whether nothing was written since the snapshot of this GUID: not in later snapshots, not in the head."""
        for snapshot in reversed(self.snapshots):
            if snapshot.guid == guid:
                return self.written == 0
            if snapshot.written:
                return False
        return False


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is marked about one guest on one pool: its epoch, points, and how far each target is."""

    pool: str
    vmid: int
    epoch: int
    points: tuple[RecoveryPoint, ...] = ()
    """Oldest first."""
    sent: Mapping[str, PointId] = field(default_factory=dict)
    """Target → the last point that it committed."""
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Digest → text."""

    def point(self, id: PointId) -> RecoveryPoint | None:
        """The record of one point."""
        return next((p for p in self.points if p.id == id), None)


@dataclass(frozen=True, slots=True)
class Space:
    """Of one pool, in bytes."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Scan:
    """One look at all storages of a node. `at` is the wall clock before the look began."""

    at: datetime
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    anchors: Mapping[tuple[str, int], Anchor] = field(default_factory=dict)
    """(pool, VMID) → what is marked there."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Pool → why it could not be looked at. Nothing is known of what is there, so nothing may follow from it."""
    space: Mapping[str, Space] = field(default_factory=dict)
    """Pool → how much room it has, as far as that is known."""
    _complete: dict[int, list[RecoveryPoint]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `complete_points` has found already: a scan never changes."""

    def anchors_of(self, vmid: int) -> list[Anchor]:
        """The guest's anchors on all pools."""
        return sorted((a for a in self.anchors.values() if a.vmid == vmid), key=lambda a: a.pool)

    def asides(self, vmid: int) -> list[Volume]:
        """What was set aside of a guest here."""
        prefixes = (f"holdfast/aside/{vmid}-e", f"holdfast.aside.{vmid}-e")  # on ZFS, on RBD
        return [v for v in self.volumes.values() if v.dataset.partition("/")[2].startswith(prefixes)]

    def origins(self) -> dict[str, list[str]]:
        """`dataset@snapshot` → the datasets that are clones of it, and need it."""
        found: dict[str, list[str]] = {}
        for volume in self.volumes.values():
            if volume.origin is not None:
                found.setdefault(volume.origin, []).append(volume.dataset)
        return found

    def epoch_of(self, vmid: int) -> int:
        """The highest epoch that is marked for the guest; 0 where there is none."""
        return max((anchor.epoch for anchor in self.anchors_of(vmid)), default=0)

    def guids(self, point: RecoveryPoint) -> set[int]:
        """Those of the point's members that are here."""
        return {
            member.guid
            for member in point.members
            if (volume := self.volumes.get(member.dataset)) and volume.snapshot(member.guid)
        }

    def recorded_points(self, vmid: int) -> dict[PointId, RecoveryPoint]:
        """The guest's points, complete or not, each as the records of all pools have it together."""
        points: dict[PointId, RecoveryPoint] = {}
        for anchor in self.anchors_of(vmid):
            for point in anchor.points:
                points[point.id] = points[point.id].joined(point) if point.id in points else point
        return points

    def unseen(self, datasets: Iterable[str]) -> dict[str, str]:
        """Of the pools of these, those where this look failed, each with why."""
        return {pool: why for dataset in datasets if (why := self.failed.get(pool := pool_of(dataset)))}

    def sees_all_of(self, vmid: int) -> bool:
        """Whether no member of the guest's points may be where this look failed: it would look as if it were gone."""
        return not self.failed or all(len(p.members) == len(p.disks) for p in self.recorded_points(vmid).values())

    def complete_points(self, vmid: int) -> list[RecoveryPoint]:
        """The guest's complete points here, oldest first."""
        found = self._complete.get(vmid)
        if found is None:
            points = self.recorded_points(vmid)
            found = [points[id] for id in sorted(points) if points[id].complete(self.guids(points[id]))]
            self._complete[vmid] = found
        return found

    def with_point(self, pool: str, vmid: int, point: RecoveryPoint, definition: str) -> "Scan":
        """What a scan would show after this point was recorded on a pool, as far as plans look at it."""
        volumes = dict(self.volumes)
        for member in point.members:
            volume = volumes.get(member.dataset)
            if volume is not None and volume.snapshot(member.guid) is None:
                made = [s.createtxg for s in volume.snapshots] + [b.createtxg for b in volume.bookmarks]
                newest = max(made, default=0)
                taken = Snapshot(member.snapshot, member.guid, newest + 1, volume.written, 0, holds=0)
                volumes[member.dataset] = replace(volume, snapshots=(*volume.snapshots, taken), written=0)
        before = self.anchors.get((pool, vmid)) or Anchor(pool, vmid, point.epoch)
        after = replace(
            before,
            epoch=point.epoch,
            points=(*before.points, point),
            definitions={**before.definitions, point.definition: definition},
        )
        return replace(self, volumes=volumes, anchors={**self.anchors, (pool, vmid): after})

    def with_record(self, pool: str, vmid: int, point: RecoveryPoint) -> "Scan":
        """What a scan would show after this record of a point took the place of an earlier one."""
        before = self.anchors[pool, vmid]
        after = replace(before, points=tuple(point if p.id == point.id else p for p in before.points))
        return replace(self, anchors={**self.anchors, (pool, vmid): after})

    def without(self, vmid: int, guids: Collection[int], ids: Collection[PointId]) -> "Scan":
        """What a scan would show after these snapshots were destroyed and these points forgotten."""
        anchors, volumes = dict(self.anchors), dict(self.volumes)
        for key, anchor in self.anchors.items():
            if anchor.vmid == vmid:
                datasets = {m.dataset for p in anchor.points for m in p.members}
                anchors[key] = replace(anchor, points=tuple(p for p in anchor.points if p.id not in ids))
                for volume in (volumes[d] for d in datasets & volumes.keys()):
                    snapshots = tuple(s for s in volume.snapshots if s.guid not in guids)
                    if len(snapshots) < len(volume.snapshots):
                        volumes[volume.dataset] = replace(volume, snapshots=snapshots)
        return replace(self, anchors=anchors, volumes=volumes)


def pool_of(dataset: str) -> str:
    """What a dataset lies in, and is snapshotted with at once: its zpool, or `rbd:STOREID`."""
    return dataset.partition("/")[0]


def is_rbd(dataset: str) -> bool:
    """Whether it is an RBD image, or a storage of such."""
    return dataset.startswith("rbd:")


def is_aside(dataset: str) -> bool:
    """Whether it lies where replicas, and heads of a rollback, are set aside on ZFS."""
    return dataset.split("/")[1:3] == ["holdfast", "aside"]
