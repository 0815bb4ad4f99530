"""librados and librbd on the model of Ceph, as far as the agent's RBD back end calls them: that runs unmodified.

What a piece of blocking work does is a row of operations. It may die, or get no answer, at any of them: one that got
none may have taken effect. Names, arguments and errors are those of Ceph's Python bindings (checked against the real
ones in tests/integration/ceph/test_model.py).
"""

import errno
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from holdfast.agent.storage.rbd import anchor
from holdfast.coordinator.model.point import RecoveryPoint

from .ceph import FEATURES, FSID, Ceph, CephPool, RadosObject, RbdImage, points_in
from .datasets import Image as Content
from .datasets import Snap
from .zfs import Storage

P = ParamSpec("P")
R = TypeVar("R")


class CephError(Exception):
    """Of either binding."""

    number = errno.EIO

    def __init__(self, what: str, number: int | None = None) -> None:
        super().__init__(what)
        self.errno = number or self.number


class ObjectNotFound(CephError):
    number = errno.ENOENT


class ObjectExists(CephError):
    number = errno.EEXIST


class TimedOut(CephError):
    number = errno.ETIMEDOUT


class ImageNotFound(CephError):
    number = errno.ENOENT


class ImageExists(CephError):
    number = errno.EEXIST


class ImageBusy(CephError):
    number = errno.EBUSY


class ImageHasSnapshots(CephError):
    number = errno.ENOTEMPTY


class InvalidArgument(CephError):
    number = errno.EINVAL


class Dead(BaseException):
    """The process that did it is no more."""


class Call:
    """One piece of work: how far it comes."""

    def __init__(self, rng: random.Random, ceph: Ceph, node: str) -> None:
        self._rng = rng
        self.ceph = ceph
        self.node = node
        self.dies_at: int | None = None
        """The number of the operation before which it dies."""
        self.fails_at: int | None = None
        """The number of the operation that is told to have failed."""
        self.silent_from: int | None = None
        """The number of the operation from which on there is no answer."""
        self.between: Callable[[], None] = lambda: None
        """Called before each operation."""
        self.timeouts = 0
        self._done = 0

    @property
    def storage(self) -> Storage:
        return self.ceph.storages[self.node]

    def enter(self, pool: CephPool, *, writes: bool, full_try: bool) -> CephError | None:
        """Before an operation. What it returns is to be raised once the operation has taken effect."""
        self.between()
        number, self._done = self._done, self._done + 1
        if self.dies_at is not None and number >= self.dies_at:
            raise Dead
        error: CephError | None = None
        if number == self.fails_at:
            error = CephError("I/O error")
        if self.silent_from is not None and number >= self.silent_from:
            self.timeouts += 1
            error = TimedOut("timed out")
        if writes and pool.full and not full_try:
            self.timeouts += 1
            raise TimedOut("error")
        if error is not None and (number != self.silent_from or self._rng.random() < 0.5):
            raise error
        return error


class _Works(Protocol):
    """What operations are done on."""

    @property
    def io(self) -> "Io": ...


W = TypeVar("W", bound=_Works)


def _operation(
    writes: bool,
) -> Callable[[Callable[Concatenate[W, P], R]], Callable[Concatenate[W, P], R]]:
    """A method that is one operation on the cluster, or several that come or fail together."""

    def decorate(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
        @functools.wraps(method)
        def operate(self: W, *args: P.args, **kwargs: P.kwargs) -> R:
            io = self.io
            error = io.call.enter(io.pool, writes=writes, full_try=io.full_try)
            result = method(self, *args, **kwargs)
            if error is not None:
                raise error
            return result

        return operate

    return decorate


_reads, _writes = _operation(writes=False), _operation(writes=True)


class _Context:
    """Something that is open inside a block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return


class WriteOp(_Context):
    """Several changes of one object, all or none."""

    def __init__(self) -> None:
        self.exclusive = False
        self.compare: list[tuple[str, str]] = []
        self.put: dict[str, str] = {}
        self.gone: list[str] = []

    def new(self, flag: int) -> None:
        self.exclusive = bool(flag)

    def omap_cmp(self, key: str, value: str) -> None:
        self.compare.append((key, value))


class ReadOp(_Context):
    """A read of an object."""

    def __init__(self) -> None:
        self.page: list[tuple[str, bytes]] = []
        self.after = ""
        self.most = 0


class Io(_Context):
    """An ioctx."""

    def __init__(self, pool: CephPool, call: Call) -> None:
        self.pool = pool
        self.call = call
        self.full_try = False
        self._version = 0

    @property
    def io(self) -> "Io":
        return self

    def set_osdmap_full_try(self) -> None:
        self.full_try = True

    @staticmethod
    def set_omap(op: WriteOp, keys: Sequence[str], values: Sequence[bytes]) -> None:
        op.put.update((key, value.decode()) for key, value in zip(keys, values, strict=True))

    @staticmethod
    def remove_omap_keys(op: WriteOp, keys: Sequence[str]) -> None:
        op.gone.extend(keys)

    @staticmethod
    def get_omap_vals(op: ReadOp, after: str, prefix: str, most: int) -> tuple[Iterator[tuple[str, bytes]], int]:
        op.after, op.most = after, most

        def page() -> Iterator[tuple[str, bytes]]:
            yield from op.page

        return page(), 0

    @_writes
    def operate_write_op(self, op: WriteOp, name: str) -> None:
        found = self.pool.objects.get(name)
        if op.exclusive and found is not None:
            raise ObjectExists(f"[errno 17] Failed to operate write op for oid {name}")
        for key, value in op.compare:
            if found is None or found.omap.get(key, "") != value:
                raise CephError(f"Failed to operate write op for oid {name}", errno.ECANCELED)
        if found is None:
            found = self.pool.objects[name] = RadosObject()
        marked = anchor.Marks(dict(found.omap)).epoch
        found.omap.update(op.put)
        for key in op.gone:
            found.omap.pop(key, None)
        found.version += 1
        if name.startswith("holdfast.guest."):
            self._audit(int(name.removeprefix("holdfast.guest.")), op, marked, anchor.Marks(found.omap).epoch)

    def _audit(self, vmid: int, op: WriteOp, marked: int, epoch: int) -> None:
        storage = self.call.storage
        for id in points_in(op.put):
            point = RecoveryPoint.model_validate_json(op.put[f"{anchor.POINT}{id}"])
            storage.audit.recorded(storage, vmid, point, epoch, marked)

    @_reads
    def operate_read_op(self, op: ReadOp, name: str) -> None:
        found = self.pool.objects.get(name)
        if found is None:
            raise ObjectNotFound(f"[errno 2] Failed to operate read op for oid {name}")
        keys = sorted(key for key in found.omap if key > op.after)[: op.most]
        op.page = [(key, found.omap[key].encode()) for key in keys]

    @_reads
    def stat(self, name: str) -> None:
        kind, _, id = name.partition(".")
        image = next((i for i in self.pool.images.values() if i.id == id), None)
        if image is None:
            raise ObjectNotFound(f"[errno 2] Failed to stat {name!r}")
        self._version = image.header if kind == "rbd_header" else image.map

    def get_last_version(self) -> int:
        return self._version


class Image(_Context):
    """An open image."""

    def __init__(self, io: Io, name: str, *, read_only: bool = False) -> None:
        self.io = io
        self._read_only = read_only
        self._snap: Snap | None = None
        self._image = self._open(name)

    @_reads
    def _open(self, name: str) -> RbdImage:
        image = self.io.pool.images.get(name)
        if image is None:
            raise ImageNotFound(f"[errno 2] error opening image {name}")
        return image

    def _there(self) -> RbdImage:
        """For a change; it may have been removed meanwhile."""
        assert not self._read_only
        return self._image

    def id(self) -> str:
        return self._image.id

    def get_name(self) -> str:
        return self._image.name.partition("/")[2]

    def features(self) -> int:
        return FEATURES

    def flags(self) -> int:
        return 0

    def size(self) -> int:
        return (self._snap.image if self._snap else self._image.image).size

    @_reads
    def metadata_list(self) -> list[tuple[str, str]]:
        return sorted(self._image.metadata.items())

    @_writes
    def metadata_set(self, key: str, value: str) -> None:
        image = self._there()
        image.metadata[key] = value
        image.remark()

    @_writes
    def metadata_remove(self, key: str) -> None:
        image = self._there()
        if key not in image.metadata:
            raise KeyError(f"no such key: {key}")
        del image.metadata[key]
        image.remark()

    def list_snaps(self) -> list[dict[str, Any]]:
        return [{"id": s.txg, "name": s.name, "size": s.image.size, "namespace": 0} for s in self._image.snaps.values()]

    def set_snap(self, name: str | None) -> None:
        self._snap = self._find(name) if name is not None else None

    def _find(self, name: str) -> Snap:
        snap = self._image.snaps.get(name)
        if snap is None:
            raise ImageNotFound(f"[errno 2] no snapshot {name} of {self._image.name}")
        return snap

    def is_protected_snap(self, name: str) -> bool:
        return self._find(name).held

    @_writes
    def protect_snap(self, name: str) -> None:
        snap = self._find(name)
        if snap.held:
            raise ImageBusy(f"[errno 16] error protecting snapshot {name}")
        snap.held = True
        self._there().changed()

    @_writes
    def unprotect_snap(self, name: str) -> None:
        snap = self._find(name)
        if not snap.held:
            raise InvalidArgument(f"[errno 22] error unprotecting snapshot {name}")
        snap.held = False
        self._there().changed()

    @_writes
    def create_snap(self, name: str) -> None:
        image = self._there()
        if name in image.snaps:
            raise ImageExists(f"[errno 17] error creating snapshot {name}")
        self.io.pool.snapshot(image, name)

    @_writes
    def remove_snap(self, name: str) -> None:
        image, snap = self._there(), self._find(name)
        if snap.held:
            raise ImageBusy(f"[errno 16] error removing snapshot {name}")
        del image.snaps[name]
        image.changed()
        storage = self.io.call.storage
        storage.audit.destroyed(storage, image, snap)

    @_writes
    def rollback_to_snap(self, name: str) -> None:
        image, snap = self._there(), self._find(name)
        image.put(snap.image)
        image.torn = False
        image.changed()

    @_writes
    def resize(self, size: int) -> None:
        image = self._there()
        before = image.image
        image.put(Content(0, 0, 0) if size == 0 else Content(before.counter, before.written, size))
        image.torn = image.torn and size > 0
        image.changed()

    @_reads
    def diff_iterate(
        self,
        offset: int,
        length: int,
        since: str | None,
        callback: Callable[[int, int, bool], None],
        whole_object: bool,
    ) -> None:
        now = (self._snap.image if self._snap else self._image.image).written
        before = self._find(since).image.written if since is not None else 0
        dirty = self._snap is None and since is not None and self._image.dirty
        if now != before or dirty:
            callback(0, max(4096, now - before), True)


class RBD:
    """What is done to images by their names."""

    def __init__(self) -> None:
        self._io: Io

    @property
    def io(self) -> Io:
        return self._io

    def list2(self, io: Io) -> list[dict[str, str]]:
        self._io = io
        return [{"id": io.pool.images[name].id, "name": name} for name in self._list()]

    def list(self, io: Io) -> list[str]:
        self._io = io
        return self._list()

    @_reads
    def _list(self) -> "list[str]":
        return sorted(self._io.pool.images)

    def create(self, io: Io, name: str, size: int, **options: object) -> None:
        self._io = io
        self._create(name, size)

    @_writes
    def _create(self, name: str, size: int) -> None:
        if name in self._io.pool.images:
            raise ImageExists("[errno 17] error creating image")
        self._io.pool.create(name, size)

    def remove(self, io: Io, name: str) -> None:
        self._io = io
        self._remove(name)

    @_writes
    def _remove(self, name: str) -> None:
        image = self._io.pool.images.get(name)
        if image is None:
            raise ImageNotFound("[errno 2] error removing image")
        if image.snaps:
            raise ImageHasSnapshots("[errno 39] error removing image")
        if image.receiving:
            raise ImageBusy("[errno 16] error removing image")
        del self._io.pool.images[name]

    def rename(self, io: Io, name: str, to: str) -> None:
        self._io = io
        self._rename(name, to)

    @_writes
    def _rename(self, name: str, to: str) -> None:
        images = self._io.pool.images
        image = images.get(name)
        if image is None:
            raise ImageNotFound("[errno 2] error renaming image")
        if to in images:
            raise ImageExists("[errno 17] error renaming image")
        dataset = f"rbd:{self._io.pool.storeid}/{to}"
        if not name.startswith("holdfast.new."):
            storage = self._io.call.storage
            storage.audit.renamed(storage, image, dataset)
        del images[name]
        images[to] = image
        image.name = dataset


RADOS = SimpleNamespace(
    ObjectNotFound=ObjectNotFound,
    ObjectExists=ObjectExists,
    WriteOpCtx=WriteOp,
    ReadOpCtx=ReadOp,
    LIBRADOS_CREATE_EXCLUSIVE=1,
)
RBD_BINDING = SimpleNamespace(
    RBD=RBD,
    Image=Image,
    ImageNotFound=ImageNotFound,
    ImageExists=ImageExists,
    ImageBusy=ImageBusy,
    ImageHasSnapshots=ImageHasSnapshots,
    InvalidArgument=InvalidArgument,
    RBD_FEATURE_LAYERING=1,
    RBD_FEATURE_EXCLUSIVE_LOCK=4,
    RBD_FEATURE_OBJECT_MAP=8,
    RBD_FEATURE_FAST_DIFF=16,
    RBD_FEATURE_DEEP_FLATTEN=32,
    RBD_FLAG_OBJECT_MAP_INVALID=1,
    RBD_FLAG_FAST_DIFF_INVALID=2,
    RBD_SNAP_NAMESPACE_TYPE_USER=0,
)


class ModelPool:
    """What `agent.storage.rbd.cluster.Pool` is, on the model."""

    def __init__(self, pool: CephPool, call: Call) -> None:
        self.io = Io(pool, call)
        self.fsid = FSID
        self.id = pool.number
        self.rados, self.rbd = RADOS, RBD_BINDING
