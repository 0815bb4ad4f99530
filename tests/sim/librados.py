"""librados on the model of Ceph, as far as the agent's RBD back end calls it: that runs unmodified.

What a piece of blocking work does is a row of operations. It may die, or get no answer, at any of them: one that got
none may have taken effect. Names, arguments and errors are those of Ceph's Python bindings (checked against the real
ones in tests/integration/ceph/test_model.py).
"""

import errno
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace, TracebackType
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar

from holdfast.agent.storage.rbd import anchor
from holdfast.coordinator.model.point import RecoveryPoint

from .ceph import Ceph, CephPool, RadosObject, points_in
from .zfs import Storage

P = ParamSpec("P")
R = TypeVar("R")

CREATE_EXCLUSIVE, CREATE_IDEMPOTENT = 1, 0


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


reading, writing = _operation(writes=False), _operation(writes=True)


class Context:
    """Something that is open inside a block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return


class WriteOp(Context):
    """Several changes of one object, all or none."""

    def __init__(self) -> None:
        self.exclusive = False
        self.compare: list[tuple[str, str]] = []
        self.put: dict[str, str] = {}
        self.gone: list[str] = []

    def new(self, flag: int) -> None:
        self.exclusive = flag == CREATE_EXCLUSIVE

    def omap_cmp(self, key: str, value: str) -> None:
        self.compare.append((key, value))


class ReadOp(Context):
    """A read of an object."""

    def __init__(self) -> None:
        self.page: list[tuple[str, bytes]] = []
        self.after = ""
        self.most = 0


class Io(Context):
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

    def get_pool_name(self) -> str:
        return self.pool.storeid

    @staticmethod
    def get_namespace() -> str:
        return ""

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

    @writing
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

    @reading
    def operate_read_op(self, op: ReadOp, name: str) -> None:
        found = self.pool.objects.get(name)
        if found is None:
            raise ObjectNotFound(f"[errno 2] Failed to operate read op for oid {name}")
        keys = sorted(key for key in found.omap if key > op.after)[: op.most]
        op.page = [(key, found.omap[key].encode()) for key in keys]

    @reading
    def stat(self, name: str) -> None:
        kind, _, id = name.partition(".")
        image = next((i for i in self.pool.images.values() if i.id == id), None)
        if image is None:
            raise ObjectNotFound(f"[errno 2] Failed to stat {name!r}")
        self._version = image.header if kind == "rbd_header" else image.map

    def get_last_version(self) -> int:
        return self._version


RADOS = SimpleNamespace(
    ObjectNotFound=ObjectNotFound,
    ObjectExists=ObjectExists,
    WriteOpCtx=WriteOp,
    ReadOpCtx=ReadOp,
    LIBRADOS_CREATE_EXCLUSIVE=CREATE_EXCLUSIVE,
    LIBRADOS_CREATE_IDEMPOTENT=CREATE_IDEMPOTENT,
    Error=CephError,
)
