"""The Volumes port: commands that take their time on a node's storage, and streams that move over a connection.

A command is a child process: it goes on while the agent is stopped, and dies with it (PR_SET_PDEATHSIG).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from holdfast.agent.ports import (
    Channel,
    CommitOrder,
    CopyOrder,
    ReceiveOrder,
    Refused,
    SendOrder,
    TakeOrder,
    VolumesError,
)
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Scan

from . import streams
from .datasets import Partial, Snap, Stream
from .loop import Process, current
from .wire import End
from .world import Machine, World

T = TypeVar("T")

TIMEOUT = 120.0
STALL = 30.0
MARKING = 0.1
"""Seconds until zfs recv has marked the dataset that it has made."""
CHUNKS = 6
"""Pieces in which a stream moves: a cut may fall anywhere between."""


class SimVolumes:
    """The Volumes port of one agent's process."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world = world
        self._machine = machine
        self._storage = machine.storage

    async def _command(self, step: str, effect: Callable[[], T]) -> T:
        world, machine = self._world, self._machine
        process = current()
        assert process is not None
        world.step(step, "before")
        done: asyncio.Future[T] = world.loop.create_future()

        def apply() -> None:
            if not process.alive:
                return
            if machine.storage.suspended:
                machine.stuck.append(apply)
                return
            if done.done() and world.rng.random() < 0.5:  # killed before it got that far
                return
            error: Exception | None = None
            result: T
            fails = machine.fails()
            try:
                if not fails or world.rng.random() < 0.5:
                    result = effect()
            except (VolumesError, Refused) as reason:
                error = reason
            if fails:
                error = VolumesError(f"zfs {step}: I/O error")
            world.tell(process.name, step, **({"failed": error} if error else {}))
            world.stepped(step, "after", process)

            def reply() -> None:
                if done.done() or not process.alive:  # killed: nobody hears of it
                    return
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(result)

            world.loop.after(world.some(0.002, 0.02), reply)

        def give_up() -> None:
            if not done.done():
                done.set_exception(VolumesError(f"zfs {step} did not end within {TIMEOUT:.0f} s"))

        world.loop.after(world.some(0.01, 0.08), apply)
        if machine.storage.suspended:
            world.loop.after(TIMEOUT, give_up)
        return await done

    async def scan(self) -> Scan:
        at = self._world.wall(self._machine)
        return await self._command("scan", lambda: self._storage.scan(at))

    async def prepare(self, pool: str, vmid: int) -> None:
        await self._command("prepare", lambda: self._storage.prepare(pool, vmid))

    async def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        await self._command("raise_epoch", lambda: self._storage.raise_epoch(pool, vmid, epoch))

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        return await self._command("take", lambda: self._storage.take(order))

    async def hold(self, snapshots: Sequence[str]) -> None:
        if snapshots:
            await self._command("hold", lambda: self._storage.hold(snapshots))

    async def release(self, snapshots: Sequence[str]) -> None:
        if snapshots:
            await self._command("release", lambda: self._storage.hold(snapshots, held=False))

    async def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        await self._command(
            "record_sent", lambda: self._storage.record_sent(pool, vmid, epoch, target, point, bookmarks)
        )

    async def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        await self._command("destroy", lambda: self._storage.destroy(pool, vmid, epoch, doomed, forget, definitions))

    async def drop_bookmark(self, bookmark: str) -> None:
        await self._command("drop_bookmark", lambda: self._storage.drop_bookmark(bookmark))

    async def abort_partial(self, dataset: str) -> None:
        await self._command("abort_partial", lambda: self._storage.abort_partial(dataset))

    async def set_aside(self, dataset: str, vmid: int, epoch: int) -> str:
        return await self._command("set_aside", lambda: self._storage.set_aside(dataset, vmid, epoch))

    async def put_aside(self, dataset: str, aside: str, kind: str) -> None:
        await self._command("put_aside", lambda: self._storage.put_aside(dataset, aside, kind))

    async def clone_back(self, snapshot: str, dataset: str, kind: str) -> None:
        await self._command("clone_back", lambda: self._storage.clone_back(snapshot, dataset, kind))

    async def promote(self, pool: str, vmid: int, epoch: int, dataset: str, snapshot: str, guid: int) -> None:
        await self._command("promote", lambda: self._storage.promote_clone(pool, vmid, epoch, dataset, snapshot, guid))

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        return ()

    async def kernel_names(self, datasets: Sequence[str]) -> Mapping[str, str]:
        return {}

    async def roll_back(self, aside: str, snapshot: str, guid: int, mark: str) -> None:
        raise NotImplementedError  # never planned for ZFS

    async def put_back(self, aside: str, dataset: str) -> None:
        raise NotImplementedError  # never planned for ZFS

    async def make_copy(self, order: CopyOrder) -> None:
        await self._command("make_copy", lambda: self._storage.make_copy(order))

    async def show_copy(self, order: CopyOrder) -> None:
        await self._command("show_copy", lambda: self._storage.show_copy(order))

    async def flatten_copy(self, dataset: str) -> None:
        raise NotImplementedError  # never planned for ZFS

    async def drop_copy(self, dataset: str) -> None:
        await self._command("drop_copy", lambda: self._storage.drop_copy(dataset))

    async def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        if properties:
            await self._command("set_properties", lambda: self._storage.set_properties(dataset, properties))

    async def commit(self, order: CommitOrder) -> None:
        self._storage.audit.committing(self._storage, order.vmid)
        await self._command("commit", lambda: self._storage.commit(order))

    async def send(self, order: SendOrder, channel: Channel) -> None:
        assert isinstance(channel, End)
        self._world.step("send", "before")
        await run(ZfsSend(self._world, self._machine, order, channel))
        self._world.step("send", "after")
        channel.finish_sending()

    async def receive(self, order: ReceiveOrder, channel: Channel) -> None:
        assert isinstance(channel, End)
        self._world.step("receive", "before")
        await run(ZfsReceive(self._world, self._machine, order, channel))
        self._world.step("receive", "after")


async def run(child: "Child") -> None:
    if not child.process.alive:  # the fault that struck at this very step has killed it: it starts nothing any more
        await child.done
    child.process.children[child] = child.died
    child.begin()
    try:
        await child.done
    finally:
        child.process.children.pop(child, None)
        child.died()


class Child:
    """One end of a stream, as `zfs send` or `zfs recv`, and the watch over it (`agent.storage.child`)."""

    tool = "zfs"

    def __init__(self, world: World, machine: Machine, end: End) -> None:
        process = current()
        assert process is not None
        self.process: Process = process
        self.world = world
        self.machine = machine
        self.storage = machine.storage
        self.end = end
        self.connection = end.connection
        self.done: asyncio.Future[None] = world.loop.create_future()
        self.over = False
        self._seen = -1
        world.loop.after(STALL, self._watch)

    def begin(self) -> None:
        raise NotImplementedError

    def tidy(self) -> None:
        """Let go of what the child had in use."""

    def stuck(self) -> bool:
        """Whether its storage neither gives nor takes anything now."""
        return self.storage.suspended

    def died(self) -> None:
        """Killed, or ended: nothing of it goes on."""
        if not self.over:
            self.over = True
            self.tidy()

    def fail(self, why: str) -> None:
        if not self.over:
            self.died()
            if not self.done.done():
                self.done.set_exception(VolumesError(why))
                self.done.exception()  # whoever waited may be dead

    def succeed(self) -> None:
        if not self.over:
            self.died()
            if not self.done.done():
                self.done.set_result(None)

    def _watch(self) -> None:
        if self.over:
            return
        if self.connection.moved == self._seen:
            self.connection.break_()
            self.fail(f"{self.tool} moved nothing for {STALL:.0f} s: is the link or the pool stuck?")
            return
        self._seen = self.connection.moved
        self.world.loop.after(STALL, self._watch)


class Sending(Child):
    """The end that a stream comes from."""

    def __init__(self, world: World, machine: Machine, end: End) -> None:
        super().__init__(world, machine, end)
        self._snap: Snap | None = None
        self._left = 0

    def open(self) -> tuple[Stream, Snap, str]:
        """What it is going to send, of which snapshot, and what the other end is told. Raises VolumesError."""
        raise NotImplementedError

    def begin(self) -> None:
        self.world.loop.after(self.world.some(0.01, 0.05), self._open)

    def tidy(self) -> None:
        if self._snap is not None:
            self._snap.busy = max(0, self._snap.busy - 1)

    def _open(self) -> None:
        if self.over:
            return
        try:
            stream, snap, source = self.open()
        except VolumesError as error:
            self.fail(str(error))
            return
        snap.busy += 1
        self._snap = snap
        self._stream = stream
        self._left = stream.total - (stream.offset or 0)
        self._piece = max(1, -(-self._left // CHUNKS))
        self.end.post((stream, source))
        self._next()

    def _next(self) -> None:
        if self.over:
            return
        if self._left == 0:
            self.succeed()
            return
        self._now = min(self._piece, self._left)
        cut = self.connection.cut_at
        if cut is not None:
            until = int(self._stream.total * cut) - (self._stream.total - self._left)
            self._now = min(self._now, max(1, until))
        self.world.loop.after(self._now / self.connection.bandwidth + 0.001, self._move)

    def _move(self) -> None:
        if self.over:
            return
        there, here = self.end.peer, self.machine.name
        if self.connection.broken or self.end.finished or self.end.closed:
            self.fail(f"{self.tool}: the link broke")
            return
        network = self.connection.network
        stuck = self.stuck() or not there.machine.powered or not network.both(here, there.machine.name)
        if stuck or not self.end.delivered or there.on_wake is None or not there.on_wake(self._now):
            self.world.loop.after(0.5, self._move)
            return
        self._left -= self._now
        cut = self.connection.cut_at
        if cut is not None and self._stream.total - self._left >= int(self._stream.total * cut):
            self.world.tell("wire", "cut", at=f"{cut:.0%}")
            self.connection.break_()
        self._next()


class ZfsSend(Sending):
    """`zfs send`."""

    def __init__(self, world: World, machine: Machine, order: SendOrder, end: End) -> None:
        super().__init__(world, machine, end)
        self._order = order

    def open(self) -> tuple[Stream, Snap, str]:
        if self.machine.fails():
            raise VolumesError(f"zfs send {self._order.source}: I/O error")
        stream, snap = streams.begin_send(self.storage, self._order)
        token = self._order.resume_token
        return stream, snap, self._order.source if token is None else token.partition("|")[0]


class Receiving(Child):
    """The end that a stream goes to."""

    def __init__(self, world: World, machine: Machine, dataset: str, end: End) -> None:
        super().__init__(world, machine, end)
        self._dataset = dataset
        self._partial: Partial | None = None
        self._stream: Stream | None = None

    def begin(self) -> None:
        self.end.on_wake = self._arrive
        self._arrive()

    def tidy(self) -> None:
        self.end.on_wake = None
        if self._partial is not None:
            self.broken()

    def opened(self, stream: Stream, source: str) -> Partial:
        """The beginning of the stream has come. Raises VolumesError where it is refused."""
        raise NotImplementedError

    def arrived(self, partial: Partial, count: int) -> None:
        """More of it has come. Raises VolumesError."""
        raise NotImplementedError

    def ended(self, partial: Partial) -> None:
        """All of it has come. Raises VolumesError."""
        raise NotImplementedError

    def broken(self) -> None:
        """No more of it comes."""
        raise NotImplementedError

    def _arrive(self, count: int = 0) -> bool:
        """Something came. False: the pool takes nothing in now."""
        if self.over or self.stuck():
            return False
        if self._stream is None:
            if self.end.inbox and not self._open():
                return False
            if self._stream is None:
                if self.end.finished or self.connection.broken:
                    self.fail(f"{self.tool}: failed to read from stream")
                return False
        assert self._partial is not None
        if count:
            try:
                self.arrived(self._partial, count)
            except VolumesError as error:
                self.fail(str(error))
                return False
            self.connection.moved += count
        if self._partial.received >= self._stream.total:
            self.world.loop.after(self.world.some(0.005, 0.05), self._finish)
        elif self.end.finished or self.connection.broken:
            self.fail(f"{self.tool}: {self._dataset}: incomplete stream")
        return True

    def _open(self) -> bool:
        stream, source = self.end.inbox.popleft()
        try:
            self._partial = self.opened(stream, source)
        except VolumesError as error:
            self.fail(str(error))
            return False
        self._stream = stream
        how = "resumed" if stream.offset is not None else "incremental" if stream.base else "in full"
        said = {"dataset": self._dataset, "snapshot": stream.name, "how": how, "offset": stream.offset or 0}
        self.world.tell(self.process.name, "receive", **said, of=stream.total)
        return True

    def _finish(self) -> None:
        if self.over or self._partial is None:
            return
        if self.stuck():
            self.world.loop.after(1.0, self._finish)
            return
        try:
            self.ended(self._partial)
        except VolumesError as error:
            self.fail(str(error))
            return
        self._partial = None
        self.succeed()


class ZfsReceive(Receiving):
    """`zfs recv`."""

    def __init__(self, world: World, machine: Machine, order: ReceiveOrder, end: End) -> None:
        super().__init__(world, machine, order.dataset, end)
        self._order = order

    def opened(self, stream: Stream, source: str) -> Partial:
        if self.machine.fails():
            raise VolumesError(f"zfs recv {self._dataset}: I/O error")
        partial = streams.begin_receive(self.storage, self._order, stream, source)
        self.world.loop.after(MARKING, streams.set_mark, self.storage, self._dataset, partial)
        return partial

    def arrived(self, partial: Partial, count: int) -> None:
        streams.arrived(self.storage, self._dataset, partial, count)

    def ended(self, partial: Partial) -> None:
        streams.end_receive(self.storage, self._dataset, partial)

    def broken(self) -> None:
        streams.break_receive(self.storage, self._dataset)
