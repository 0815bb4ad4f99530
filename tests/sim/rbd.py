"""The Volumes port on RBD: the agent's own back end, whose threads and children are the world's.

A piece of blocking work is done at one moment of virtual time, unlike a command of ZFS's by the agent itself: a thread
stands still while its process does, and dies with it wherever it was. `rbd export-diff` and `import-diff` are children.
"""

import asyncio
import contextlib
import contextvars
import errno
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from holdfast.agent.ports import Channel, CommitOrder, LockToken, Refused, VolumesError
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import TIMEOUT, Cluster, Pool, number_of
from holdfast.agent.storage.rbd.volumes import RbdVolumes
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.storage import Storage as StorageRecord

from .ceph import TORN, Ceph, CephPool, RbdImage
from .datasets import Image, Partial, Snap, Stream
from .librados import Call, Dead, TimedOut
from .librbd import ModelPool
from .loop import Process, current
from .volumes import Receiving, Sending, SimVolumes, run
from .wire import End
from .world import Machine, World

T = TypeVar("T")

HEADER = 4096
AGAIN = 0.5
GRACE = 20.0
"""Seconds for which what is removed stays in the trash."""
BETWEEN = 0.02
"""The part of operations before which another thread's work is done."""
OPERATIONS = (0, 0, 1, 1, 2, 3, 4, 6, 9, 13)
"""At which operation a piece of work comes to grief."""

STEPS = {
    "look for": "rbd_clients",
    "put": "rbd_put",
    "roll": "rbd_roll_back",
    "look": "rbd_look",
    "mark": "rbd_mark",
    "begin point": "rbd_announce",
    "snapshot": "rbd_snapshot",
    "record": "rbd_record",
    "remove what": "rbd_drop",
    "remove snap": "rbd_remove",
    "protect": "rbd_protect",
    "begin to": "rbd_begin",
    "undo": "rbd_undo",
    "set": "rbd_aside",
    "purge": "rbd_purge",
}
"""By how the back end calls a piece of work, the step that it is."""


def step_of(what: str) -> str:
    """The step of the protocol."""
    return next((step for begin, step in STEPS.items() if what.startswith(begin)), "rbd_other")


class _Work:
    """A piece of blocking work in a thread."""

    def __init__(self, cluster: "SimCluster", what: str, work: Callable[[Pool], Any], process: Process) -> None:
        self.future: asyncio.Future[Any] = cluster.world.loop.create_future()
        self._cluster = cluster
        self._what = what
        self._work = work
        self._process = process
        self._began = cluster.world.now
        self._context = contextvars.copy_context()
        process.children[self] = self._died
        cluster.ceph.waiting.append(self._amid)

    def _died(self) -> None:
        """With its process, in its midst."""
        world = self._cluster.world
        self._cluster.ceph.waiting.remove(self._amid)
        if world.rng.random() < 0.5:
            call = self._cluster.new_call()
            call.dies_at = world.rng.choice(OPERATIONS)
            with contextlib.suppress(Dead, VolumesError, Refused):
                self._cluster.carry_out(self._what, self._work, call)

    def _amid(self) -> None:
        """Done while another is, between two operations of that one."""
        if not self._process.stopped:
            self._context.run(self.apply)

    def _between(self) -> None:
        """Before an operation: threads of all nodes work at the same time."""
        cluster, rng = self._cluster, self._cluster.world.rng
        if not self._process.alive:  # it was killed by what came between
            raise Dead
        waiting = cluster.ceph.waiting
        if waiting and not cluster.ceph.amid and rng.random() < BETWEEN:
            cluster.ceph.amid = True
            rng.choice(waiting)()
            cluster.ceph.amid = False

    def apply(self) -> None:
        if self._amid not in self._cluster.ceph.waiting:  # it came amid another
            return
        cluster, world = self._cluster, self._cluster.world
        silent = cluster.ceph.silent(cluster.machine.name)
        if silent and world.now < self._began + TIMEOUT:
            world.loop.call_later(AGAIN, self.apply)
            return
        self._process.children.pop(self, None)
        cluster.ceph.waiting.remove(self._amid)
        if self.future.cancelled() and world.rng.random() < 0.5:
            return
        call = cluster.new_call()
        if silent:
            call.silent_from = world.rng.choice(OPERATIONS)
        elif cluster.machine.fails():
            call.fails_at = world.rng.choice(OPERATIONS)
        call.between = self._between
        error: Exception | None = None
        result = None
        try:
            result = cluster.carry_out(self._what, self._work, call)
            if silent and self._what == "look":
                raise VolumesError(f"{self._what}: no mon answers")
        except (VolumesError, Refused) as reason:
            error = reason
        except Dead:
            return
        world.tell(self._process.name, step_of(self._what), **({"failed": error} if error else {}))
        waits = min(call.timeouts - (silent and call.timeouts > 0), 6)  # it has waited for the first of them already
        world.loop.call_later(world.some(0.001, 0.01) + TIMEOUT * waits, self._reply, result, error)
        world.stepped(step_of(self._what), "after", self._process)

    def _reply(self, result: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class SimCluster(Cluster):
    """A connection of one agent's process."""

    def __init__(self, world: World, machine: Machine, ceph: Ceph, access: Access) -> None:
        self.access = access
        self.world = world
        self.machine = machine
        self.ceph = ceph

    def start(self, what: str, work: Callable[[Pool], T]) -> asyncio.Future[T]:
        process = current()
        assert process is not None
        begun = _Work(self, what, work, process)
        self.world.step(step_of(what), "before")
        self.world.loop.call_later(self.world.some(0.005, 0.04), begun.apply)
        return begun.future

    def close(self) -> None:
        """Nothing is kept open."""

    def new_call(self) -> Call:
        return Call(self.world.rng, self.ceph, self.machine.name)

    def carry_out(self, what: str, work: Callable[[Pool], T], call: Call) -> T:
        """Do it now. Raises what the work refuses, or VolumesError, as production does."""
        pool = self.ceph.pools.get(self.access.pool)
        try:
            if pool is None:
                raise TimedOut("no such pool", errno.ENOENT)
            return work(cast(Pool, ModelPool(pool, call)))
        except (VolumesError, Refused):
            raise
        except Exception as error:
            raise VolumesError(f"{what}: {self._explain(error, number_of(error), connected=True)}") from error


class SimRbd(RbdVolumes):
    """The back end of one agent's process."""

    def __init__(
        self,
        world: World,
        machine: Machine,
        ceph: Ceph,
        access: Callable[[], Mapping[str, Access]],
        token: Callable[[int], LockToken | None],
    ) -> None:
        super().__init__(machine.name, lambda: world.wall(machine), access, GRACE, token)
        self._world = world
        self._machine = machine
        self._ceph = ceph

    def _connect(self, access: Access) -> Cluster:
        return SimCluster(self._world, self._machine, self._ceph, access)

    async def _export(self, argv: Sequence[str], channel: Channel) -> None:
        assert isinstance(channel, End)
        self._world.step("rbd_export", "before")
        await run(_Exporting(self._world, self._machine, self._ceph, argv, channel))
        self._world.step("rbd_export", "after")
        channel.finish_sending()

    async def _import(self, argv: Sequence[str], channel: Channel) -> None:
        assert isinstance(channel, End)
        self._world.step("rbd_import", "before")
        await run(_Importing(self._world, self._machine, self._ceph, argv, channel))
        self._world.step("rbd_import", "after")


class SimNodeVolumes(NodeVolumes):
    """ZFS and RBD, by the agent's own code that joins them."""

    def __init__(self, world: World, machine: Machine, ceph: Ceph) -> None:
        self.storages: Callable[[], Mapping[str, StorageRecord]] = dict
        self._me = machine.name
        self._now: Callable[[], datetime] = lambda: world.wall(machine)
        self._keys = self._conf = Path("/nonexistent")
        self._timeout = TIMEOUT
        self._zfs = SimVolumes(world, machine)  # type: ignore[assignment]
        self.token: Callable[[int], LockToken | None] = lambda vmid: None
        self._rbd = SimRbd(world, machine, ceph, self._access, lambda vmid: self.token(vmid))
        self._storage = machine.storage

    async def commit(self, order: CommitOrder) -> None:
        if order.pool.startswith(names.PREFIX):
            self._storage.audit.committing(self._storage, order.vmid)
        await super().commit(order)


def _option(argv: Sequence[str], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def find(ceph: Ceph, argv: Sequence[str]) -> tuple[CephPool, RbdImage]:
    """The image of a command. Raises VolumesError."""
    pool = ceph.pools[_option(argv, "--pool") or ""]
    image = pool.images.get(_option(argv, "--image") or "")
    if image is None:
        raise VolumesError(f"rbd {argv[1]}: error opening image: (2) No such file or directory")
    return pool, image


def export(image: RbdImage, argv: Sequence[str]) -> tuple[Stream, Snap]:
    """What `rbd export-diff` would send. Raises VolumesError."""
    snap, base = image.snaps.get(_option(argv, "--snap") or ""), None
    if snap is None:
        raise VolumesError("rbd export-diff: error setting snapshot context: (2) No such file or directory")
    since = _option(argv, "--from-snap")
    if since is not None:
        base = image.snaps.get(since)
        if base is None:
            raise VolumesError(f"rbd export-diff: start snapshot {since} does not exist")
        if base.txg >= snap.txg:
            raise VolumesError("rbd export-diff: (22) Invalid argument")
    total = HEADER + abs(snap.image.written - (base.image.written if base else 0))  # it may have been rolled back
    return Stream(snap.name, snap.guid, base.guid if base else 0, snap.image, total), snap


class Import:
    """`rbd import-diff`: it writes into the head as data comes, and makes the snapshot in the end."""

    def __init__(self, pool: CephPool, image: RbdImage, stream: Stream, since: str | None) -> None:
        if since is not None and since not in image.snaps:
            raise VolumesError("rbd import-diff: start snapshot does not exist in the image, aborting")
        if stream.name in image.snaps:
            raise VolumesError("rbd import-diff: end snapshot already exists, aborting")
        self._pool = pool
        self._image = image
        self._stream = stream
        base = image.snaps.get(since) if since is not None else None
        before = base.image if base else Image(0, 0, 0)
        found = image.image
        self._right = not image.torn and (found.counter, found.written) == (before.counter, before.written)
        image.receiving = True

    def arrived(self, count: int) -> None:
        """More data. Raises VolumesError where there is no room."""
        if self._pool.full:
            raise VolumesError("rbd import-diff: failed: (110) Connection timed out")
        image = self._image
        image.put(Image(TORN, image.image.written + count, self._stream.image.size))
        image.torn = True

    def ended(self) -> None:
        """The end of the stream has come."""
        image, wanted = self._image, self._stream.image
        image.put(wanted if self._right else Image(TORN, wanted.written, wanted.size))
        image.torn = not self._right
        self._pool.snapshot(image, self._stream.name, stream=self._stream)
        image.receiving = False

    def broken(self) -> None:
        """The command is no more."""
        self._image.receiving = False


class _Exporting(Sending):
    tool = "rbd export-diff"

    def __init__(self, world: World, machine: Machine, ceph: Ceph, argv: Sequence[str], end: End) -> None:
        super().__init__(world, machine, end)
        self._ceph = ceph
        self._argv = argv

    def stuck(self) -> bool:
        return self._ceph.silent(self.machine.name)

    def open(self) -> tuple[Stream, Snap, str]:
        if self.machine.fails():
            raise VolumesError("rbd export-diff: I/O error")
        _, image = find(self._ceph, self._argv)
        stream, snap = export(image, self._argv)
        self.storage.audit.sends(self.storage, image)
        return stream, snap, _option(self._argv, "--from-snap") or ""


class _Importing(Receiving):
    tool = "rbd import-diff"

    def __init__(self, world: World, machine: Machine, ceph: Ceph, argv: Sequence[str], end: End) -> None:
        pool, image = find(ceph, argv)
        super().__init__(world, machine, image.name, end)
        self._ceph = ceph
        self._pool = pool
        self._image = image
        self._import: Import | None = None
        self._came = 0

    def stuck(self) -> bool:
        return self._ceph.silent(self.machine.name)

    def opened(self, stream: Stream, source: str) -> Partial:
        if self.machine.fails():
            raise VolumesError("rbd import-diff: I/O error")
        image = self._image
        self._import = Import(self._pool, image, stream, source or None)
        self.storage.audit.began(self.storage, image.name, image.mark, stream)
        return Partial(stream)

    def arrived(self, partial: Partial, count: int) -> None:
        assert self._import is not None
        self._import.arrived(count)
        partial.received += count
        self._came += count
        self.storage.audit.moved(self.storage, self._image.name, partial.stream, count)

    def ended(self, partial: Partial) -> None:
        assert self._import is not None
        self._import.ended()
        self.storage.audit.received(self.storage, self._image, partial.stream)

    def broken(self) -> None:
        """What came of it comes again: that is how RBD goes on."""
        assert self._import is not None
        self._import.broken()
        assert self._partial is not None
        self.storage.audit.moved(self.storage, self._image.name, self._partial.stream, -self._came)
