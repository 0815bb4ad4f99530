"""What is on a pool: datasets with their snapshots, bookmarks and half-received streams, and Holdfast's anchors.

Content is a counter and how many bytes have ever been written.
"""

from dataclasses import dataclass, field

from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.observed import Anchor, Bookmark, Snapshot, Volume

ROOT_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Image:
    """The content of a head at a moment."""

    counter: int
    written: int
    """Bytes ever written to it and to what it was received from."""
    size: int


@dataclass(slots=True)
class Snap:
    """A snapshot."""

    name: str
    guid: int
    txg: int
    image: Image
    foreign: bool = False
    """Made by somebody else than Holdfast."""
    held: bool = False
    busy: int = 0
    """Sends that read it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A bookmark."""

    guid: int
    txg: int
    written: int


@dataclass(frozen=True, slots=True)
class Stream:
    """What `zfs send` says first; `total` bytes follow. One that goes on with a broken one begins at `offset`."""

    name: str
    guid: int
    base: int
    image: Image
    total: int
    offset: int | None = None


@dataclass(slots=True)
class Partial:
    """What is kept of a broken stream."""

    stream: Stream
    received: int = 0
    synced: int = 0
    begun: bool = False
    """Whether more than the stream's first record has come: zfs recv makes and keeps nothing before."""
    source: str = ""
    mark: str = ""
    """What zfs recv sets on the dataset (-o), in transaction groups after that which made it."""

    @property
    def token(self) -> str:
        return f"{self.source}|{self.stream.guid}|{self.stream.base}|{self.received}"


@dataclass(slots=True)
class Dataset:
    """A zvol or filesystem: its head, and what hangs on it."""

    name: str
    kind: str
    guid: int
    image: Image
    synced: Image
    """As of the last transaction group: what a scan shows."""
    durable: Image
    """What a power cut leaves."""
    mark: str = ""
    """The replica mark, as VMID/SLOT."""
    properties: dict[str, str] = field(default_factory=dict)
    snaps: dict[str, Snap] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    partial: Partial | None = None
    receiving: bool = False
    origin: str | None = None
    """`dataset@snapshot` that it is a clone of."""
    brought_back: str = ""
    """The snapshot that it was when it was promoted: ZFS counts a block of its own as written since."""
    copy: str = ""
    """The mark of a copy of a point."""
    seen: Volume | None = None
    """What a scan shows, until something changes."""

    @property
    def inconsistent(self) -> bool:
        """Made by a first stream that is not whole yet: zfs takes no snapshot of it (EBUSY)."""
        return self.partial is not None and not self.snaps

    @property
    def newest(self) -> Snap | None:
        return next(reversed(self.snaps.values()), None)

    def by_guid(self, guid: int) -> Snap | None:
        for snap in self.snaps.values():
            if snap.guid == guid:
                return snap
        return None

    @property
    def _brought_back(self) -> bool:
        return self.newest is not None and self.newest.name == self.brought_back

    def touch(self) -> None:
        self.seen = None

    def written(self, now: Image) -> int:
        return now.written - (self.newest.image.written if self.newest else 0)

    def volume(self) -> Volume:
        """What a scan shows: bytes written only as of the last transaction group."""
        if self.seen is None:
            before = 0
            shown = []
            for snap in self.snaps.values():
                holds = int(snap.held)
                shown.append(Snapshot(snap.name, snap.guid, snap.txg, snap.image.written - before, 0, holds))
                before = snap.image.written
            self.seen = Volume(
                dataset=self.name,
                kind=self.kind,
                guid=self.guid,
                size=self.synced.size,
                used=self.synced.written,
                referenced=self.synced.written,
                written=self.synced.written - before + (ROOT_BLOCK if self._brought_back else 0),
                encrypted=False,
                resume_token=self.partial.token if self.partial and self.partial.begun else None,
                resume_guid=self.partial.stream.guid if self.partial and self.partial.begun else None,
                resume_base=(self.partial.stream.base or None) if self.partial and self.partial.begun else None,
                marks={k: v for k, v in (("replica", self.mark), ("copy", self.copy)) if v},
                properties=dict(self.properties),
                snapshots=tuple(shown),
                bookmarks=tuple(Bookmark(name, m.guid, m.txg) for name, m in self.marks.items()),
                origin=self.origin,
            )
        return self.seen


@dataclass(slots=True)
class AnchorData:
    """`<pool>/holdfast/guests/<vmid>`."""

    epoch: int = 0
    points: dict[PointId, RecoveryPoint] = field(default_factory=dict)
    sent: dict[str, PointId] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    seen: Anchor | None = None
