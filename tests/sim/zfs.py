"""What OpenZFS does with a node's pools, as far as Holdfast can tell: a model, checked against the real one in the lab.

Content is a counter and how many bytes have ever been written. Commands return once their transaction group is on disk
(so what they did survives a power cut); what was written otherwise is lost back to the last group, unless it was
fsynced, which the intent log keeps. Errors are those of the agent's ZFS back end: VolumesError and Refused.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from holdfast.agent.ports import CommitOrder, ReceiveOrder, Refused, SendOrder, TakeOrder, VolumesError
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Anchor, Bookmark, Scan, Snapshot, Volume, pool_of

HEADER = 4096
"""Bytes of a stream beside its data."""
BUSY, EXISTS, MISSING = 16, 17, 2


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
    """What `zfs send` says first; `total` bytes follow, from `offset` on."""

    name: str
    guid: int
    base: int
    image: Image
    total: int
    offset: int = 0


@dataclass(slots=True)
class Partial:
    """What is kept of a broken stream."""

    stream: Stream
    received: int = 0
    synced: int = 0
    source: str = ""

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
    seen: Volume | None = None
    """What a scan shows, until something changes."""

    @property
    def newest(self) -> Snap | None:
        return next(reversed(self.snaps.values()), None)

    def by_guid(self, guid: int) -> Snap | None:
        for snap in self.snaps.values():
            if snap.guid == guid:
                return snap
        return None

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
                written=self.synced.written - before,
                encrypted=False,
                resume_token=self.partial.token if self.partial and self.partial.received else None,
                resume_guid=self.partial.stream.guid if self.partial and self.partial.received else None,
                resume_base=(self.partial.stream.base or None) if self.partial and self.partial.received else None,
                marks={"replica": self.mark} if self.mark else {},
                properties=dict(self.properties),
                snapshots=tuple(shown),
                bookmarks=tuple(Bookmark(name, m.guid, m.txg) for name, m in self.marks.items()),
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


class Audit:
    """Is told what happens on the storage; the simulator's checks override this."""

    def destroyed(self, storage: "Storage", dataset: Dataset, what: Snap | Mark) -> None: ...

    def renamed(self, storage: "Storage", dataset: Dataset, to: str) -> None: ...

    def began(self, storage: "Storage", dataset: str, mark: str, stream: Stream) -> None: ...

    def moved(self, storage: "Storage", dataset: str, stream: Stream, count: int) -> None: ...

    def received(self, storage: "Storage", dataset: Dataset, stream: Stream) -> None: ...

    def recorded(self, storage: "Storage", vmid: int, point: RecoveryPoint, epoch: int, marked: int) -> None: ...


class Storage:
    """The pools of one node, by the calls of the Volumes port."""

    def __init__(self, node: str, rng: random.Random, audit: Audit | None = None, faulty: frozenset[str] = frozenset()):
        self.node = node
        self.datasets: dict[str, Dataset] = {}
        self.anchors: dict[tuple[str, int], AnchorData] = {}
        self.txg = 100
        self.full: bool = False
        self.suspended: bool = False
        self.audit = audit or Audit()
        self.faulty = faulty
        """Deliberate bugs (see mutants)."""
        self._rng = rng
        self._scan: Scan | None = None

    # --- what is not Holdfast's doing

    def create(self, name: str, kind: str, size: int, counter: int = 0, written: int = 1 << 20) -> Dataset:
        image = Image(counter, written, size)
        self.datasets[name] = made = Dataset(name, kind, self.new_guid(), image, image, image)
        self._scan = None
        return made

    def new_guid(self) -> int:
        return self._rng.getrandbits(64) or 1

    def write(self, name: str, counter: int | None, count: int) -> None:
        """Write to a head; with a counter it is fsynced, else it is lost with the power."""
        dataset = self.datasets[name]
        image = dataset.image
        value = image.counter if counter is None else counter
        dataset.image = Image(value, image.written + count, image.size)
        if counter is not None:
            dataset.durable = dataset.image

    def sync(self) -> None:
        """End a transaction group."""
        self.txg += 1
        for dataset in self.datasets.values():
            if dataset.synced is not dataset.image:
                dataset.synced = dataset.durable = dataset.image
                dataset.touch()
                self._scan = None
            if dataset.partial is not None and dataset.partial.synced != dataset.partial.received:
                dataset.partial.synced = dataset.partial.received
                dataset.touch()
                self._scan = None

    def power_cut(self) -> None:
        """Lose what is in memory. Counters are fsynced: the intent log has them."""
        for dataset in list(self.datasets.values()):
            dataset.image = dataset.synced = dataset.durable
            dataset.receiving = False
            for snap in dataset.snaps.values():
                snap.busy = 0
            if dataset.partial is not None:
                dataset.partial.received = dataset.partial.synced
                self._drop_empty(dataset)
            dataset.touch()
        self._scan = None
        self.full = self.suspended = False

    def snapshot_foreign(self, name: str, short: str) -> None:
        """`zfs snapshot` by somebody else."""
        dataset = self.datasets[name]
        if short not in dataset.snaps:
            self.sync()
            dataset.snaps[short] = Snap(short, self.new_guid(), self.txg, dataset.image, foreign=True)
            self._touch(dataset)

    def destroy_by_admin(self, name: str, short: str) -> None:
        """`zfs release` and `zfs destroy` by somebody else."""
        dataset = self.datasets[name]
        if short in dataset.snaps and not dataset.snaps[short].busy:
            del dataset.snaps[short]
            self._touch(dataset)

    def _touch(self, dataset: Dataset) -> None:
        dataset.touch()
        self._scan = None

    # --- the port

    def scan(self, at: datetime) -> Scan:
        if self._scan is None:
            for (pool, vmid), data in self.anchors.items():
                if data.seen is None:
                    points = tuple(data.points[id] for id in sorted(data.points))
                    data.seen = Anchor(pool, vmid, data.epoch, points, dict(data.sent), dict(data.definitions))
            self._scan = Scan(
                at,
                {name: self.datasets[name].volume() for name in sorted(self.datasets)},
                {key: data.seen for key, data in sorted(self.anchors.items()) if data.seen},
            )
        return replace(self._scan, at=at)

    def prepare(self, pool: str, vmid: int) -> None:
        self.sync()
        self.anchors.setdefault((pool, vmid), AnchorData())
        self._scan = None

    def _anchor(self, pool: str, vmid: int, epoch: int) -> AnchorData:
        """For a change under an epoch."""
        self.sync()
        data = self.anchors.get((pool, vmid))
        if data is None:
            raise VolumesError(f"zfs program: no such dataset '{pool}/holdfast/guests/{vmid}'")
        if data.epoch > epoch and "epoch" not in self.faulty:
            raise Refused("EpochRefused", f"the storage is marked with epoch {data.epoch}, which is later")
        data.seen = self._scan = None
        return data

    def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        data = self._anchor(pool, vmid, epoch)
        data.epoch = epoch

    def take(self, order: TakeOrder) -> RecoveryPoint:
        data = self._anchor(order.pool, order.vmid, order.epoch)
        marked = data.epoch
        short = order.point.id.snapshot
        for member in order.point.members:
            dataset = self.datasets.get(member.dataset)
            if dataset is None or short in dataset.snaps:
                errno = EXISTS if dataset else MISSING
                raise VolumesError(f"SnapshotFailed: {member.dataset}@{short} {errno}")
        members = []
        for member in order.point.members:
            dataset = self.datasets[member.dataset]
            name, guid = order.reuse.get(member.dataset, ("", 0))
            before = dataset.snaps.get(name)
            unwritten = (before and dataset.image.written == before.image.written) or "reuse" in self.faulty
            if before and before.guid == guid and unwritten:
                members.append(member.model_copy(update={"snapshot": name, "guid": guid}))
                continue
            taken = Snap(short, self.new_guid(), self.txg, dataset.image)
            dataset.snaps[short] = taken
            self._touch(dataset)
            members.append(member.model_copy(update={"snapshot": short, "guid": taken.guid}))
        instant = order.point.instant
        whole = instant.replace(microsecond=instant.microsecond // 1000 * 1000)  # as JSON keeps it
        point = order.point.model_copy(update={"members": tuple(members), "instant": whole})
        data.definitions[order.point.definition] = order.definition
        data.epoch = order.epoch
        data.points[point.id] = point
        self.audit.recorded(self, order.vmid, point, order.epoch, marked)
        return point

    def hold(self, snapshots: Sequence[str], held: bool = True) -> None:
        self.sync()
        for full in snapshots:
            name, _, short = full.partition("@")
            dataset = self.datasets.get(name)
            if dataset is not None and short in dataset.snaps:
                dataset.snaps[short].held = held
                self._touch(dataset)

    def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        data = self._anchor(pool, vmid, epoch)
        for full, bookmark in bookmarks:
            name, _, short = full.partition("@")
            dataset = self.datasets.get(name)
            snap = dataset.snaps.get(short) if dataset else None
            mark = bookmark.partition("#")[2]
            if dataset is not None and snap is not None and mark not in dataset.marks:
                dataset.marks[mark] = Mark(snap.guid, snap.txg, snap.image.written)
                self._touch(dataset)
        data.sent[target] = point

    def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        data = self._anchor(pool, vmid, epoch)
        failed = ""
        for each in doomed:
            dataset, snap = self._find(each.snapshot)
            if dataset is None or snap is None:
                continue
            if snap.guid != each.guid and "guid" not in self.faulty:
                raise Refused("GuidDiffers", f"{each.snapshot} is not the snapshot that was recorded")
            if self._may_go(dataset, snap):
                self._destroy(dataset, snap)
            else:
                failed = failed or f"DestroyFailed: {each.snapshot} {BUSY}"
        self._forget(data, forget, definitions, doomed)
        if failed:
            raise VolumesError(failed)

    def _forget(
        self,
        data: AnchorData,
        points: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
        doomed: Sequence[Doomed],
    ) -> None:
        """A record stays until the snapshots of its point have gone; definitions until all have."""
        left = [each.snapshot for each in doomed if self._find(each.snapshot)[1] is not None]
        for id in points:
            if not any(name.endswith(f"@{id.snapshot}") for name in left):
                data.points.pop(id, None)
        for digest, _ in definitions if not left else ():
            data.definitions.pop(digest, None)

    def _find(self, full: str) -> tuple[Dataset | None, Snap | None]:
        name, _, short = full.partition("@")
        dataset = self.datasets.get(name)
        return dataset, dataset.snaps.get(short) if dataset else None

    def _may_go(self, dataset: Dataset, snap: Snap) -> bool:
        """Not while it is held, sent, or the base of what is half received."""
        needed = dataset.partial is not None and dataset.partial.stream.base == snap.guid
        return not (snap.held or snap.busy or needed)

    def _destroy(self, dataset: Dataset, snap: Snap) -> None:
        del dataset.snaps[snap.name]
        self._touch(dataset)
        self.audit.destroyed(self, dataset, snap)

    def drop_bookmark(self, bookmark: str) -> None:
        self.sync()
        name, _, short = bookmark.partition("#")
        dataset = self.datasets.get(name)
        if dataset is None or short not in dataset.marks:
            raise VolumesError(f"zfs destroy {bookmark}: bookmark does not exist")
        mark = dataset.marks.pop(short)
        self._touch(dataset)
        self.audit.destroyed(self, dataset, mark)

    def commit(self, order: CommitOrder) -> None:
        data = self._anchor(order.pool, order.vmid, order.epoch)
        marked = data.epoch
        for member in order.point.members:
            if pool_of(member.dataset) == order.pool and "members" not in self.faulty:
                _, snap = self._find(member.full_name)
                if snap is None or snap.guid != member.guid:
                    raise Refused("MemberMissing", f"{member.full_name} is not there as it was sent")
        data.definitions[order.point.definition] = order.definition
        data.epoch = order.epoch
        data.points[order.point.id] = order.point
        for each in order.destroy:
            dataset, snap = self._find(each.snapshot)
            if dataset and snap and snap.guid == each.guid and self._may_go(dataset, snap):
                self._destroy(dataset, snap)
        self._forget(data, order.forget, order.forget_definitions, order.destroy)
        self.audit.recorded(self, order.vmid, order.point, order.epoch, marked)

    def abort_partial(self, name: str) -> None:
        self.sync()
        dataset = self.datasets.get(name)
        if dataset is None or dataset.partial is None or dataset.receiving:
            raise VolumesError(f"zfs recv -A {name}: it has no resumable receive state to abort")
        dataset.partial = None
        if not dataset.snaps:
            del self.datasets[name]
        self._touch(dataset)

    def set_aside(self, name: str, vmid: int, epoch: int) -> str:
        self.sync()
        dataset = self.datasets.get(name)
        if dataset is None or dataset.receiving:
            raise VolumesError(f"zfs rename {name}: {'dataset is busy' if dataset else 'dataset does not exist'}")
        pool, _, rest = name.partition("/")
        number = 1
        while (to := f"{pool}/holdfast/aside/{vmid}-e{epoch}-{number}-{rest.rpartition('/')[2]}") in self.datasets:
            number += 1
        self.audit.renamed(self, dataset, to)
        del self.datasets[name]
        dataset.name = to
        self.datasets[to] = dataset
        self._touch(dataset)
        return to

    def set_properties(self, name: str, properties: Mapping[str, str]) -> None:
        if not properties:
            return
        self.sync()
        if name not in self.datasets:
            raise VolumesError(f"zfs set {name}: dataset does not exist")
        self.datasets[name].properties.update(properties)
        self._touch(self.datasets[name])

    # --- streams: begun here, moved by the wire, ended here

    def begin_send(self, order: SendOrder) -> tuple[Stream, Snap]:
        """Raises VolumesError where zfs send would end before its first byte."""
        if order.resume_token is not None:
            source, guid, base, offset = order.resume_token.split("|")
            dataset, snap = self._find(source)
            if dataset is None or snap is None or snap.guid != int(guid):
                raise VolumesError(
                    f"zfs send -t: cannot resume send: '{source}' is no longer the snapshot of the token"
                )
            return self._stream(dataset, snap, int(base), int(offset)), snap
        dataset, snap = self._find(order.source)
        if dataset is None or snap is None:
            raise VolumesError(f"zfs send {order.source}: dataset does not exist")
        base = 0
        if order.base is not None:
            short = order.base[1:]
            found = dataset.snaps.get(short) if order.base[0] == "@" else dataset.marks.get(short)
            if found is None:
                raise VolumesError(f"zfs send -i {order.base} {order.source}: incremental source does not exist")
            if found.txg >= snap.txg:
                raise VolumesError(f"zfs send -i {order.base} {order.source}: not an earlier snapshot from the same fs")
            base = found.guid
        return self._stream(dataset, snap, base, 0), snap

    def _stream(self, dataset: Dataset, snap: Snap, base: int, offset: int) -> Stream:
        before = 0
        if base:
            earlier = dataset.by_guid(base)
            mark = next((m for m in dataset.marks.values() if m.guid == base), None)
            if earlier is None and mark is None:
                raise VolumesError(f"zfs send: incremental source {base:x} no longer exists")
            before = earlier.image.written if earlier else mark.written if mark else 0
        return Stream(snap.name, snap.guid, base, snap.image, HEADER + snap.image.written - before, offset)

    def begin_receive(self, order: ReceiveOrder, stream: Stream, source: str) -> Partial:
        """Raises VolumesError where zfs recv would refuse the stream."""
        name = order.dataset
        dataset = self.datasets.get(name)

        def refuse(why: str) -> VolumesError:
            return VolumesError(f"zfs recv {name}: {why}")

        if dataset is not None and dataset.receiving:
            raise refuse("dataset is busy")
        if stream.offset:
            partial = dataset.partial if dataset else None
            if partial is None or partial.stream.guid != stream.guid or partial.received != stream.offset:
                raise refuse("kernel modules must be upgraded or the stream does not match the partial state")
            dataset = self.datasets[name]
        elif dataset is not None and dataset.partial is not None:
            raise refuse('destination contains partially-complete state from "zfs receive -s".')
        elif stream.base == 0:
            if dataset is not None:
                raise refuse("destination exists")
            dataset = self.create(name, order.kind, stream.image.size, written=0)
            dataset.mark = order.mark
            partial = Partial(stream, source=source)
        else:
            if dataset is None:
                raise refuse("destination does not exist")
            if dataset.newest is None or dataset.newest.guid != stream.base:
                raise refuse("most recent snapshot does not match incremental source")
            if dataset.written(dataset.image):
                raise refuse("destination has been modified since most recent snapshot")
            dataset.mark = order.mark
            partial = Partial(stream, source=source)
        dataset.partial = partial
        dataset.receiving = True
        self.audit.began(self, name, order.mark, stream)
        self._touch(dataset)
        return partial

    def arrived(self, dataset: str, partial: Partial, count: int) -> None:
        """Take in more of a stream. Raises VolumesError where there is no room."""
        if self.full:
            raise VolumesError(f"zfs recv {dataset}: out of space")
        partial.received += count
        self.audit.moved(self, dataset, partial.stream, count)
        if found := self.datasets.get(dataset):
            self._touch(found)

    def end_receive(self, name: str, partial: Partial) -> None:
        """All of it has arrived: the snapshot is made."""
        self.sync()
        dataset = self.datasets[name]
        stream = partial.stream
        dataset.snaps[stream.name] = Snap(stream.name, stream.guid, self.txg, stream.image)
        dataset.image = dataset.synced = dataset.durable = stream.image
        dataset.partial = None
        dataset.receiving = False
        self._touch(dataset)
        self.audit.received(self, dataset, stream)

    def break_receive(self, name: str) -> None:
        """The stream ended early: what arrived is kept, if anything did."""
        dataset = self.datasets.get(name)
        if dataset is None or not dataset.receiving:
            return
        dataset.receiving = False
        self.sync()
        self._drop_empty(dataset)
        self._touch(dataset)

    def _drop_empty(self, dataset: Dataset) -> None:
        """Of a stream that broke before anything was written, nothing is kept (dmu_recv_cleanup_ds)."""
        if dataset.partial is not None and dataset.partial.received == 0:
            dataset.partial = None
            if not dataset.snaps:
                del self.datasets[dataset.name]

    def replicas(self, vmid: int) -> Iterator[Dataset]:
        """What is marked as a replica of a guest, asides left out."""
        for name, dataset in self.datasets.items():
            if dataset.mark.startswith(f"{vmid}/") and "/holdfast/aside/" not in name:
                yield dataset
