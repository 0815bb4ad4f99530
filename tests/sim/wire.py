"""The Wire port: TCP between the agents, with latency, bandwidth, partitions (one-way too), and death of either end.

What the kernel does for a real connection is done here: a peer that died is told by a reset, one that fell silent is
given up after 20 s (TCP_USER_TIMEOUT and keepalive of `agent.transfer.tcp`), and what was sent before arrives once a
partition heals sooner.
"""

import asyncio
from collections import deque
from typing import Any, TypeVar

from holdfast.agent.ports import Handler, WireError
from holdfast.proto import transfer_pb2 as pb

from .loop import Process, current
from .world import Machine, World

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 150.0
SILENT = 20.0
LATENCY = (0.001, 0.004)
AGAIN = 0.5
"""Seconds between tries to deliver what a partition holds up."""

M = TypeVar("M", pb.Request, pb.Answer, pb.Result)


class Network:
    """Who can reach whom; `etcd` is a place too."""

    def __init__(self, world: World, bandwidth: float) -> None:
        self.world = world
        self.bandwidth = bandwidth
        self.down: set[tuple[str, str]] = set()
        self.listeners: dict[str, tuple[Process, deque[End], list[asyncio.Future[None]]]] = {}
        self.connections: list[Connection] = []
        self.sent: dict[tuple[int, str, str], int] = {}
        """(VMID, disk, target) → bytes of streams that arrived there."""

    def up(self, a: str, b: str) -> bool:
        return (a, b) not in self.down

    def both(self, a: str, b: str) -> bool:
        return self.up(a, b) and self.up(b, a)

    def cut(self, a: str, b: str) -> None:
        """Lose everything from a to b."""
        self.down.add((a, b))
        self.world.loop.after(SILENT, self._give_up, a, b)

    def heal(self, a: str, b: str) -> None:
        self.down.discard((a, b))

    def _give_up(self, a: str, b: str) -> None:
        if (a, b) in self.down:
            for connection in list(self.connections):
                if {end.machine.name for end in connection.ends} == {a, b}:
                    connection.break_()


class Connection:
    """Two ends; messages between them arrive in order."""

    def __init__(self, network: Network, a: Machine, b: Machine, pace: int | None) -> None:
        self.network = network
        self.broken = False
        self.bandwidth = min(network.bandwidth, pace) if pace else network.bandwidth
        self.ends = (End(self, a), End(self, b))
        self.ends[0].peer, self.ends[1].peer = self.ends[1], self.ends[0]
        self.moved = 0
        self.cut_at: float | None = None
        """Share of the stream after which a fault breaks it."""
        network.connections.append(self)

    def break_(self) -> None:
        """Both sides find it broken."""
        if not self.broken:
            self.broken = True
            self.network.connections.remove(self)
            for end in self.ends:
                end.wake()


class End:
    """One side's channel."""

    node: str | None = None  # nobody proves who it is here

    def __init__(self, connection: Connection, machine: Machine) -> None:
        self.connection = connection
        self.machine = machine
        self.peer: End
        self.process: Process | None = None
        self.inbox: deque[Any] = deque()
        self.finished = False
        """The other side will send no more."""
        self.closed = False
        self.subject = ""
        """What the connection was opened for."""
        self._outbox: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.on_wake: Any = None
        """Called at arrivals by whoever reads a stream here."""

    def belongs_to(self, process: Process) -> None:
        self.process = process
        process.children[self] = self._owner_died

    def _owner_died(self) -> None:
        network, connection = self.connection.network, self.connection
        reset = self.machine.powered and network.up(self.machine.name, self.peer.machine.name)
        network.world.loop.after(LATENCY[1] if reset else SILENT, connection.break_)

    def post(self, item: Any) -> None:
        """Give something to the kernel to deliver."""
        self._outbox.append(item)
        if len(self._outbox) == 1:
            self.connection.network.world.loop.after(self.connection.network.world.some(*LATENCY), self._flush)

    def _flush(self) -> None:
        network = self.connection.network
        if self.connection.broken:
            return
        if not self.peer.machine.powered or not network.up(self.machine.name, self.peer.machine.name):
            network.world.loop.after(AGAIN, self._flush)
            return
        while self._outbox:
            item = self._outbox.popleft()
            if item is None:
                self.peer.finished = True
            else:
                self.peer.inbox.append(item)
        self.peer.wake()

    @property
    def delivered(self) -> bool:
        return not self._outbox

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.on_wake is not None:
            self.on_wake()

    async def send(self, message: pb.Request | pb.Answer | pb.Result) -> None:
        world = self.connection.network.world
        if isinstance(message, pb.Request):
            self.subject = message.WhichOneof("what") or ""
            world.step(f"ask_{self.subject}", "before")
        if self.connection.broken or self.closed:
            raise WireError(f"the connection to {self.peer.machine.name} broke")
        if current() is not None and not current().alive:  # type: ignore[union-attr]
            await world.loop.create_future()
        self.post(message.SerializeToString())

    async def request(self) -> pb.Request:
        message = await self._read(pb.Request())
        self.subject = message.WhichOneof("what") or ""
        return message

    async def answer(self) -> pb.Answer:
        answer = await self._read(pb.Answer())
        self.connection.network.world.step(f"ask_{self.subject}", "after")
        return answer

    async def result(self) -> pb.Result:
        return await self._read(pb.Result())

    async def _read(self, message: M) -> M:
        loop = self.connection.network.world.loop
        limit = loop.time() + ANSWER_TIMEOUT
        while not self.inbox:
            if self.connection.broken or self.finished or self.closed:
                raise WireError(f"the connection to {self.peer.machine.name} broke: it was closed")
            if loop.time() >= limit:
                raise WireError(f"{self.peer.machine.name} did not answer within {ANSWER_TIMEOUT:.0f} s")
            self._waiter = loop.create_future()
            timer = loop.call_at(limit, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        item = self.inbox.popleft()
        if not isinstance(item, bytes):
            raise WireError(f"{self.peer.machine.name} sent something that is no message")
        message.ParseFromString(item)
        return message

    def transferred(self) -> int:
        return self.connection.moved

    def finish_sending(self) -> None:
        if not self.closed:
            self.post(None)

    def abort(self) -> None:
        self.connection.break_()

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.post(None)
            if self.process is not None:
                self.process.children.pop(self, None)
            if self.peer.closed:
                self.connection.break_()


class SimWire:
    """The Wire port of one process."""

    def __init__(self, network: Network, machine: Machine, machines: dict[str, Machine]) -> None:
        self._network = network
        self._machine = machine
        self._machines = machines

    async def connect(self, node: str, address: str, port: int, pace: int | None = None) -> End:
        world, network, me = self._network.world, self._network, self._machine
        process = current()
        assert process is not None
        there = self._machines.get(address)
        limit = world.loop.time() + CONNECT_TIMEOUT
        while there is None or not there.powered or not network.both(me.name, there.name):
            if world.loop.time() >= limit:
                raise WireError(f"{address}:{port} cannot be reached: no answer; does its agent run?")
            await asyncio.sleep(2.0)  # SYN again
        await asyncio.sleep(world.some(*LATENCY))
        listener = network.listeners.get(there.name)
        if listener is None or not listener[0].alive:
            raise WireError(f"{address}:{port} cannot be reached: connection refused; does its agent run?")
        server, queue, waiters = listener
        connection = Connection(network, me, there, pace)
        mine, theirs = connection.ends
        mine.belongs_to(process)
        theirs.belongs_to(server)
        queue.append(theirs)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()
        return mine

    async def serve(self, address: str, port: int, handler: Handler) -> None:
        process = current()
        assert process is not None
        queue: deque[End] = deque()
        waiters: list[asyncio.Future[None]] = []
        self._network.listeners[self._machine.name] = (process, queue, waiters)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    while not queue:
                        waiter = self._network.world.loop.create_future()
                        waiters.append(waiter)
                        await waiter
                    group.create_task(_handle(queue.popleft(), handler))
        finally:
            self._network.listeners.pop(self._machine.name, None)


async def _handle(channel: End, handler: Handler) -> None:
    try:
        await handler(channel)
    finally:
        await channel.close()
