"""What OpenZFS does with a node's pools, as far as Holdfast can tell: a model, checked against the real one in the lab.

Commands return once their transaction group is on disk (so what they did survives a power cut); what was written
otherwise is lost back to the last group, unless it was fsynced, which the intent log keeps. Errors are those of the
agent's ZFS back end: VolumesError and Refused.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from holdfast.agent.ports import CommitOrder, CopyOrder, Refused, TakeOrder, VolumesError
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Anchor, Scan, Space, pool_of

from .datasets import AnchorData, Dataset, Image, Mark, Snap, Stream

BUSY, EXISTS, MISSING = 16, 17, 2
POOLS = ("fast", "tank")


class Audit:
    """Is told what happens on the storage; the simulator's checks override this."""

    def destroyed(self, storage: "Storage", dataset: Dataset, what: Snap | Mark) -> None: ...

    def renamed(self, storage: "Storage", dataset: Dataset, to: str) -> None: ...

    def cloned(self, storage: "Storage", dataset: Dataset) -> None: ...

    def rewinds(self, storage: "Storage", dataset: Dataset) -> None: ...

    def trashed(self, storage: "Storage", dataset: Dataset) -> None: ...

    def removed(self, storage: "Storage", dataset: Dataset) -> None: ...

    def taken(self, storage: "Storage", dataset: Dataset) -> None: ...

    def sends(self, storage: "Storage", dataset: Dataset) -> None: ...

    def began(self, storage: "Storage", dataset: str, mark: str, stream: Stream) -> None: ...

    def moved(self, storage: "Storage", dataset: str, stream: Stream, count: int) -> None: ...

    def received(self, storage: "Storage", dataset: Dataset, stream: Stream) -> None: ...

    def committing(self, storage: "Storage", vmid: int) -> None: ...

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
        self.crowded: float | None = None
        """Since when little room is left."""
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

    def dataset(self, name: str) -> Dataset | None:
        """By its name, on whatever storage of the node."""
        return self.datasets.get(name)

    def there(self, name: str) -> Dataset:
        """As `dataset`, of one that is known to be there."""
        found = self.dataset(name)
        assert found is not None, name
        return found

    def everything(self) -> Iterator[Dataset]:
        """All that there is on the node's storages."""
        yield from self.datasets.values()

    def marked(self) -> Mapping[tuple[str, int], AnchorData]:
        """What is marked on the node's storages."""
        return self.anchors

    def stuck(self, name: str) -> bool:
        """Whether a guest's write to a dataset has to wait."""
        return self.suspended

    def resize(self, name: str, by: int) -> None:
        """Somebody makes a guest's disk larger."""
        if (dataset := self.dataset(name)) is not None:
            image = dataset.image
            dataset.image = dataset.durable = Image(image.counter, image.written + 4096, image.size + by)

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
                dataset.partial.mark = ""  # zfs recv -s of the rest sets none
                self.drop_empty(dataset)
            dataset.touch()
        self._scan = None
        self.full = self.suspended = False

    def snapshot_foreign(self, name: str, short: str) -> None:
        """`zfs snapshot` by somebody else."""
        dataset = self.datasets.get(name)
        if dataset is not None and short not in dataset.snaps and not dataset.inconsistent:
            self.sync()
            dataset.snaps[short] = Snap(short, self.new_guid(), self.txg, dataset.image, foreign=True)
            self.touch(dataset)

    def destroy_by_admin(self, name: str, short: str) -> None:
        """`zfs release` and `zfs destroy` by somebody else; it is refused while there are clones of it."""
        dataset = self.datasets[name]
        cloned = f"{name}@{short}" in {d.origin for d in self.datasets.values()}
        if short in dataset.snaps and not dataset.snaps[short].busy and not cloned:
            del dataset.snaps[short]
            self.touch(dataset)

    def promote(self, name: str, guid: int) -> None:
        """What somebody does who starts a guest from a replica's snapshot (docs/zfs.md); what came later goes aside."""
        dataset = self.datasets[name]
        while dataset.newest is not None and dataset.newest.guid != guid:
            dataset.snaps.popitem()
        assert dataset.newest is not None
        dataset.image = dataset.synced = dataset.durable = dataset.newest.image
        dataset.partial, dataset.mark = None, ""
        self.touch(dataset)

    def crowd(self, since: float | None) -> None:
        """From now on little room is left; None: enough."""
        self.crowded = since
        self._scan = None

    def touch(self, dataset: Dataset) -> None:
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
                space={pool: Space((5 if self.crowded is not None else 50) << 30, 100 << 30) for pool in POOLS},
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
        short = order.point.snapshot
        for member in order.point.members:
            dataset = self.datasets.get(member.dataset)
            if dataset is None or short in dataset.snaps:
                errno = EXISTS if dataset else MISSING
                raise VolumesError(f"SnapshotFailed: {member.dataset}@{short} {errno}")
            if dataset.inconsistent:
                raise VolumesError(f"SnapshotFailed: {member.dataset}@{short} {BUSY}")
        members = []
        for member in order.point.members:
            dataset = self.datasets[member.dataset]
            name, guid = order.reuse.get(member.dataset, ("", 0))
            before = dataset.snaps.get(name)
            unwritten = before and dataset.image.written == before.image.written and dataset.brought_back != name
            if "reuse" in self.faulty:
                unwritten = unwritten or self._rng.random() < 0.5
            if before and before.guid == guid and unwritten:
                members.append(member.model_copy(update={"snapshot": name, "guid": guid}))
                continue
            taken = Snap(short, self.new_guid(), self.txg, dataset.image)
            dataset.snaps[short] = taken
            self.touch(dataset)
            self.audit.taken(self, dataset)
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
                self.touch(dataset)

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
                self.touch(dataset)
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
            dataset, snap = self.find(each.snapshot)
            if dataset is None or snap is None:
                continue
            if snap.guid != each.guid and "guid" not in self.faulty:
                raise Refused("GuidDiffers", f"{each.snapshot} is not the snapshot that was recorded")
            if self.may_go(dataset, snap):
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
        left = [each.snapshot for each in doomed if self.find(each.snapshot)[1] is not None]
        for id in points:
            if not any(name.endswith(f"-{id}") for name in left):
                data.points.pop(id, None)
        for digest, _ in definitions if not left else ():
            data.definitions.pop(digest, None)

    def find(self, full: str) -> tuple[Dataset | None, Snap | None]:
        name, _, short = full.partition("@")
        dataset = self.datasets.get(name)
        return dataset, dataset.snaps.get(short) if dataset else None

    def may_go(self, dataset: Dataset, snap: Snap) -> bool:
        """Not while it is held, sent, or the base of what is half received."""
        needed = dataset.partial is not None and dataset.partial.stream.base == snap.guid
        cloned = any(d.origin == f"{dataset.name}@{snap.name}" for d in self.datasets.values())
        return not (snap.held or snap.busy or needed or cloned)

    def _destroy(self, dataset: Dataset, snap: Snap) -> None:
        del dataset.snaps[snap.name]
        self.touch(dataset)
        self.audit.destroyed(self, dataset, snap)

    def drop_bookmark(self, bookmark: str) -> None:
        self.sync()
        name, _, short = bookmark.partition("#")
        dataset = self.datasets.get(name)
        if dataset is None or short not in dataset.marks:
            raise VolumesError(f"zfs destroy {bookmark}: bookmark does not exist")
        mark = dataset.marks.pop(short)
        self.touch(dataset)
        self.audit.destroyed(self, dataset, mark)

    def commit(self, order: CommitOrder) -> None:
        data = self._anchor(order.pool, order.vmid, order.epoch)
        marked = data.epoch
        for member in order.point.members:
            if pool_of(member.dataset) == order.pool and "members" not in self.faulty:
                _, snap = self.find(member.full_name)
                if snap is None or snap.guid != member.guid:
                    raise Refused("MemberMissing", f"{member.full_name} is not there as it was sent")
        data.definitions[order.point.definition] = order.definition
        data.epoch = order.epoch
        data.points[order.point.id] = order.point
        for each in order.destroy:
            dataset, snap = self.find(each.snapshot)
            if dataset and snap and snap.guid == each.guid and self.may_go(dataset, snap):
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
        self.touch(dataset)

    def set_aside(self, name: str, vmid: int, epoch: int) -> str:
        self.sync()
        dataset = self.datasets.get(name)
        if dataset is None or dataset.receiving:
            raise VolumesError(f"zfs rename {name}: {'dataset is busy' if dataset else 'dataset does not exist'}")
        pool, _, rest = name.partition("/")
        number = 1
        while (to := f"{pool}/holdfast/aside/{vmid}-e{epoch}-{number}-{rest.rpartition('/')[2]}") in self.datasets:
            number += 1
        self._rename(dataset, to)
        return to

    def put_aside(self, name: str, aside: str, kind: str) -> None:
        self.sync()
        dataset = self.datasets.get(name)
        if dataset is None or dataset.receiving or aside in self.datasets:
            raise VolumesError(f"zfs rename {name}: {'dataset is busy' if dataset else 'dataset does not exist'}")
        self._rename(dataset, aside)

    def _rename(self, dataset: Dataset, to: str) -> None:
        self.audit.renamed(self, dataset, to)
        before = dataset.name
        del self.datasets[before]
        dataset.name = to
        self.datasets[to] = dataset
        for snap in dataset.snaps:
            self._origin_moved(f"{before}@{snap}", f"{to}@{snap}")
        self.touch(dataset)

    def _origin_moved(self, old: str, new: str) -> None:
        for clone in self.datasets.values():
            if clone.origin == old:
                clone.origin = new
                self.touch(clone)

    def clone_back(self, snapshot: str, name: str, kind: str) -> None:
        source, made = self._clone(snapshot, name)
        made.mark, made.properties = source.mark, dict(source.properties)
        self.audit.cloned(self, made)

    def make_copy(self, order: CopyOrder) -> None:
        _, made = self._clone(order.snapshot, order.dataset)
        made.copy = order.mark

    def show_copy(self, order: CopyOrder) -> None:
        """Nobody reads files here."""
        self.sync()
        if order.dataset not in self.datasets:
            raise VolumesError(f"zfs mount {order.dataset}: dataset does not exist")

    def _clone(self, snapshot: str, name: str) -> tuple[Dataset, Dataset]:
        self.sync()
        source, snap = self.find(snapshot)
        if source is None or snap is None or name in self.datasets:
            raise VolumesError(f"zfs clone {snapshot} {name}: {'dataset exists' if snap else 'dataset does not exist'}")
        made = Dataset(name, source.kind, self.new_guid(), snap.image, snap.image, snap.image, origin=snapshot)
        self.datasets[name] = made
        self._scan = None
        return source, made

    def promote_clone(self, pool: str, vmid: int, epoch: int, name: str, snapshot: str, guid: int) -> None:
        """The snapshots up to the one it is of, and their bookmarks, become the clone's."""
        self._anchor(pool, vmid, epoch)
        clone, (source, snap) = self.datasets.get(name), self.find(snapshot)
        if clone is None:
            raise VolumesError(f"{name} has gone since it was last seen")
        if source is None or snap is None or snap.guid != guid:
            raise Refused("GuidDiffers", f"{snapshot} is not the snapshot that was recorded")
        if clone.origin != snapshot:
            raise VolumesError(f"PromoteFailed: {name} 22")
        clone.origin, source.origin, clone.brought_back = source.origin, f"{name}@{snap.name}", snap.name
        for short in [s.name for s in source.snaps.values() if s.txg <= snap.txg]:
            clone.snaps[short] = source.snaps.pop(short)
            self._origin_moved(f"{source.name}@{short}", f"{name}@{short}")
        for short in [n for n, m in source.marks.items() if m.txg <= snap.txg]:
            clone.marks[short] = source.marks.pop(short)
        self.touch(clone)
        self.touch(source)

    def drop_copy(self, name: str) -> None:
        self.sync()
        if self.datasets.pop(name, None) is None:
            raise VolumesError(f"zfs destroy {name}: dataset does not exist")
        self._scan = None

    def set_properties(self, name: str, properties: Mapping[str, str]) -> None:
        if not properties:
            return
        self.sync()
        if name not in self.datasets:
            raise VolumesError(f"zfs set {name}: dataset does not exist")
        self.datasets[name].properties.update(properties)
        self.touch(self.datasets[name])

    def drop_empty(self, dataset: Dataset) -> None:
        """Of a stream of which only the first record came, nothing is kept: zfs recv reads the next one before it
        begins (dmu_recv_begin). What it has begun outlasts a power cut, though all data may be lost."""
        if dataset.partial is not None and not dataset.partial.begun:
            dataset.partial = None
            if not dataset.snaps:
                del self.datasets[dataset.name]

    def replicas(self, vmid: int) -> Iterator[Dataset]:
        """What is marked as a replica of a guest, asides left out."""
        for name, dataset in self.datasets.items():
            if dataset.mark.startswith(f"{vmid}/") and "/holdfast/aside/" not in name:
                yield dataset
