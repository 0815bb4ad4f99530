"""What is on a Ceph that all nodes share: pools with images, their snapshots and metadata, and objects with an omap.

An image is a `Dataset` as guests, people and checks see one, called `rbd:STOREID/IMAGE`. What the agent sees of it goes
through the calls of `librbd`. Whatever was written is on disk: a power cut of a node loses nothing here.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.agent.storage.rbd import anchor, identity, names
from holdfast.coordinator.model.point import PointId

from .datasets import AnchorData, Dataset, Image, Snap, Stream
from .zfs import Audit, Storage

FSID = "f51d"
TORN = -1
"""The counter that a head shows of which nobody can say what it holds: half a stream, or one upon another."""
FEATURES = 1 | 4 | 8 | 16 | 32
"""layering, exclusive-lock, object-map, fast-diff, deep-flatten"""


@dataclass(slots=True)
class RbdImage(Dataset):
    """An image."""

    id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    header: int = 1
    """Version of its header object: of metadata, snapshots and size."""
    map: int = 1
    """Version of its object map."""
    dirty: bool = False
    """Whether anything was written since the newest snapshot; what is written to an object that was written before
    leaves the object map as it is. A roll-back writes."""
    rewritten: set[int] = field(default_factory=set)
    """Ids of snapshots before which something was written; that they have gone does not matter."""
    torn: bool = False
    """Whether a stream has come in part."""
    keeper: str = ""
    """The node whose replica it is."""
    parent: "tuple[RbdImage, Snap] | None" = None
    """What it is a clone of."""
    removed: list[Snap] = field(default_factory=list)
    """Snapshots that were removed while they had clones of the new kind, which keep their data."""
    kept_until: datetime | None = None
    """In the trash: when it may be removed."""

    @property
    def image_name(self) -> str:
        """As Ceph has it."""
        return names.image_of(self.name)

    def changed(self) -> None:
        """Something about it has, which its header tells."""
        self.header += 1

    def put(self, image: Image) -> None:
        """Write to the head."""
        if not self.dirty:
            self.map += 1
        self.dirty = True
        self.image = self.synced = self.durable = image

    def remark(self) -> None:
        """After its metadata changed."""
        self.changed()
        self.mark, _, self.keeper = self.metadata.get(names.REPLICA, "").partition(" ")


@dataclass(slots=True)
class RadosObject:
    """An object's omap."""

    omap: dict[str, str] = field(default_factory=dict)
    version: int = 1


class CephPool:
    """One pool and namespace: a storage of storage.cfg."""

    def __init__(self, storeid: str, number: int) -> None:
        self.storeid = storeid
        self.number = number
        self.images: dict[str, RbdImage] = {}
        """By name."""
        self.trash: dict[str, RbdImage] = {}
        """By id."""
        self.objects: dict[str, RadosObject] = {}
        self.full = False
        self.new_clones = False
        """Whether a snapshot needs no protection to be cloned (ceph osd require-min-compat-client, from mimic on)."""
        self._ids = 0

    def new_id(self) -> int:
        """For a snapshot or an image; none is ever used again."""
        self._ids += 1
        return self._ids

    def create(self, name: str, size: int, counter: int = 0, written: int = 0) -> RbdImage:
        """An image."""
        content = Image(counter, written, size)
        id = f"{self.number}{self.new_id():03x}"
        guid = identity.guid(FSID, self.number, id)
        made = RbdImage(names.dataset(self.storeid, name), "volume", guid, content, content, content, id=id)
        made.dirty = written > 0
        self.images[name] = made
        return made

    def snapshot(self, image: RbdImage, short: str, *, stream: Stream | None = None, foreign: bool = False) -> Snap:
        """Make a snapshot; of a stream's, the identity is that of what was sent."""
        id = self.new_id()
        guid = stream.guid if stream else identity.guid(FSID, self.number, image.id, id)
        image.snaps[short] = made = Snap(short, guid, id, image.image, foreign=foreign)
        if image.dirty:
            image.rewritten.add(id)
        image.dirty = False
        image.map += 1
        image.changed()
        return made

    def children(self, image: RbdImage, snap: Snap) -> list[RbdImage]:
        """Clones of a snapshot, in the trash or not."""
        there = (*self.images.values(), *self.trash.values())
        return [i for i in there if i.parent is not None and i.parent[0] is image and i.parent[1] is snap]

    def detach(self, child: RbdImage) -> None:
        """It is a clone no more, being flattened or removed."""
        if child.parent is not None:
            (parent, snap), child.parent = child.parent, None
            if snap in parent.removed and not self.children(parent, snap):
                parent.removed.remove(snap)
                parent.changed()

    def anchors(self) -> Iterator[tuple[int, anchor.Marks]]:
        """VMID → what is marked of it."""
        for name, found in self.objects.items():
            if name.startswith("holdfast.guest."):
                yield int(name.removeprefix("holdfast.guest.")), anchor.Marks(found.omap)


class Ceph:
    """All pools, and who cannot reach them."""

    def __init__(self, rng: random.Random, audit: Audit | None = None) -> None:
        self.rng = rng
        self.audit = audit or Audit()
        self.pools: dict[str, CephPool] = {}
        self.storages: dict[str, Storage] = {}
        """Node → its storage, which whoever watches is told of."""
        self.unreached: Counter[str] = Counter()
        """Node → how many faults keep it from getting an answer."""
        self.waiting: list[Callable[[], None]] = []
        """Work of all nodes that is under way."""
        self.amid = False
        """Whether some is done between two operations of another."""
        self.users: Callable[[str], tuple[str, ...]] = lambda dataset: ()
        """Dataset → the clients that have it open for long: guests."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        """By Ceph's clock."""
        self._anchors: dict[tuple[str, int], tuple[int, str, AnchorData]] = {}

    def add_pool(self, storeid: str) -> CephPool:
        self.pools[storeid] = made = CephPool(storeid, len(self.pools) + 1)
        return made

    def silent(self, node: str) -> bool:
        """Whether a node gets no answer."""
        return self.unreached[node] > 0

    def image(self, dataset: str) -> RbdImage | None:
        """By `rbd:STOREID/IMAGE`."""
        pool = self.pools.get(names.storeid_of(dataset))
        return pool.images.get(names.image_of(dataset)) if pool else None

    def anchors_of(self, node: str) -> Iterator[tuple[tuple[str, int], AnchorData]]:
        """What is marked as this node's."""
        for storeid, pool in self.pools.items():
            for vmid, marks in pool.anchors():
                if marks.node == node:
                    yield (f"{names.PREFIX}{storeid}", vmid), self._parsed(pool, vmid, marks)

    def _parsed(self, pool: CephPool, vmid: int, marks: anchor.Marks) -> AnchorData:
        version = pool.objects[names.anchor(vmid)].version
        before = self._anchors.get((pool.storeid, vmid))
        if before is None or before[0] != version:
            read = marks.anchor(f"{names.PREFIX}{pool.storeid}", vmid)
            data = AnchorData(read.epoch, {p.id: p for p in read.points}, dict(read.sent), dict(read.definitions))
            before = self._anchors[pool.storeid, vmid] = (version, marks.node, data)
        return before[2]


class NodeStorage(Storage):
    """The storage of a node: its ZFS pools, and the Ceph that it shares with the others."""

    def __init__(
        self,
        node: str,
        rng: random.Random,
        ceph: Ceph,
        audit: Audit | None = None,
        faulty: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(node, rng, audit, faulty)
        self.ceph = ceph
        ceph.storages[node] = self

    def dataset(self, name: str) -> Dataset | None:
        return self.ceph.image(name) if name.startswith(names.PREFIX) else super().dataset(name)

    def everything(self) -> Iterator[Dataset]:
        """Of Ceph's images those that are nobody else's replicas."""
        yield from super().everything()
        for pool in self.ceph.pools.values():
            for image in pool.images.values():
                if image.keeper in ("", self.node):
                    yield image

    def marked(self) -> Mapping[tuple[str, int], AnchorData]:
        return {**self.anchors, **dict(self.ceph.anchors_of(self.node))}

    def replicas(self, vmid: int) -> Iterator[Dataset]:
        yield from super().replicas(vmid)
        for pool in self.ceph.pools.values():
            for image in pool.images.values():
                if image.keeper == self.node and image.mark.startswith(f"{vmid}/"):
                    yield image

    def create(self, name: str, kind: str, size: int, counter: int = 0, written: int = 1 << 20) -> Dataset:
        if not name.startswith(names.PREFIX):
            return super().create(name, kind, size, counter, written)
        pool = self.ceph.pools[names.storeid_of(name)]
        return pool.create(names.image_of(name), size, counter, written)

    def write(self, name: str, counter: int | None, count: int) -> None:
        image = self.ceph.image(name) if name.startswith(names.PREFIX) else None
        if image is None:
            super().write(name, counter, count)
            return
        before = image.image
        image.put(Image(before.counter if counter is None else counter, before.written + count, before.size))

    def stuck(self, name: str) -> bool:
        """Whether a guest's write to it has to wait."""
        if not name.startswith(names.PREFIX):
            return super().stuck(name)
        return self.ceph.silent(self.node) or self.ceph.pools[names.storeid_of(name)].full

    def resize(self, name: str, by: int) -> None:
        super().resize(name, by)
        if (image := self.ceph.image(name)) is not None:
            image.changed()

    def snapshot_foreign(self, name: str, short: str) -> None:
        image = self.ceph.image(name)
        if image is None:
            super().snapshot_foreign(name, short)
        elif short not in image.snaps:
            self.ceph.pools[names.storeid_of(name)].snapshot(image, short, foreign=True)

    def destroy_by_admin(self, name: str, short: str) -> None:
        image = self.ceph.image(name)
        if image is None:
            super().destroy_by_admin(name, short)
        elif short in image.snaps:
            del image.snaps[short]
            image.changed()


def points_in(keys: Mapping[str, str]) -> Iterator[PointId]:
    """Of which points these keys of an omap are records."""
    for key in keys:
        if key.startswith(anchor.POINT):
            yield PointId.parse(key.removeprefix(anchor.POINT))
