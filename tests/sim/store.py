"""The Store port of one process: requests to the model of etcd, over links that may be down and may lose answers."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from holdfast.coordinator.store.port import (
    Compare,
    KeyValue,
    Lease,
    Listing,
    MemberStatus,
    Operation,
    OutcomeUnknown,
    Renewal,
    StoreError,
    TransactionResult,
    Unavailable,
    WatchBatch,
)

from .etcd import Etcd
from .loop import current
from .wire import LATENCY, Network
from .world import Machine, World

T = TypeVar("T")

TOTAL, WRITE, PAUSE = 10.0, 3.0, 0.5
SIGN_OF_LIFE = 20.0


class Service:
    """What all clients share: the cluster and what is wrong with it."""

    def __init__(self, world: World, network: Network) -> None:
        self.world = world
        self.network = network
        self.etcd = Etcd(lambda: world.now)
        self.down = False
        self.lag: dict[str, float] = {}
        """Machine → seconds by which its watches are late."""
        self.watches_broken = 0
        self.lose: dict[str, int] = {}
        """Machine → how many answers to writes are to be lost."""
        self._tick()

    def _tick(self) -> None:
        if not self.down:
            self.etcd.expire()
        self.world.loop.after(1.0, self._tick)

    def asks(self, machine: str) -> bool:
        return not self.down and self.network.up(machine, "etcd")

    def answers(self, machine: str) -> bool:
        return not self.down and self.network.up("etcd", machine)


class SimStore:
    """The Store port of one process."""

    def __init__(self, service: Service, machine: Machine, step: str) -> None:
        self._service = service
        self._world = service.world
        self._me = machine.name
        self._step = step
        """What its writes are called in the tally."""

    async def _read(self, what: str, ask: Callable[[], T]) -> T:
        service, loop = self._service, self._world.loop
        limit = loop.time() + TOTAL
        while True:
            await asyncio.sleep(self._world.some(*LATENCY))
            if service.asks(self._me) and service.answers(self._me):
                return ask()
            if loop.time() >= limit:
                raise Unavailable(f"{what}: none of etcd's members answered within {TOTAL:g} s")
            await asyncio.sleep(PAUSE)

    async def _write(self, what: str, carry_out: Callable[[], T]) -> T:
        service, loop, world = self._service, self._world.loop, self._world
        process = current()
        assert process is not None
        world.step(self._step, "before")
        limit = loop.time() + TOTAL
        while not service.asks(self._me):
            if loop.time() >= limit:
                raise Unavailable(f"{what}: none of etcd's members answered within {TOTAL:g} s")
            await asyncio.sleep(PAUSE)
        done: asyncio.Future[T] = loop.create_future()
        lost = service.lose.get(self._me, 0) > 0
        if lost:
            service.lose[self._me] -= 1

        def arrive() -> None:
            """The request is at the store now, whatever has become of its sender."""
            if service.down:
                return
            error: StoreError | None = None
            result: T
            try:
                result = carry_out()
            except StoreError as reason:
                error = reason
            world.stepped(self._step, "after", process)

            def answer() -> None:
                if lost or done.done() or not service.answers(self._me):
                    return
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(result)

            world.loop.after(world.some(*LATENCY), answer)

        late = world.rng.random() < 0.3 if lost else False
        world.loop.after(world.some(1.0, 6.0) if late else world.some(*LATENCY), arrive)
        timer = loop.call_later(WRITE, lambda: done.done() or done.set_exception(_unknown(what)))
        try:
            return await done
        finally:
            timer.cancel()

    async def get(self, key: str) -> KeyValue | None:
        return await self._read(f"read {key}", lambda: self._service.etcd.get(key))

    async def list(self, prefix: str) -> Listing:
        self._world.step("list", "before")
        listing = await self._read(f"list {prefix}", lambda: self._service.etcd.list(prefix))
        self._world.step("list", "after")
        return listing

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        return await self._write(f"write {key}", lambda: self._service.etcd.put(key, value, lease))

    async def delete(self, key: str) -> bool:
        return await self._write(f"delete {key}", lambda: self._service.etcd.delete(key))

    async def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        return await self._write("transaction", lambda: self._service.etcd.transact(compares, success, failure))

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        service, etcd, loop = self._service, self._service.etcd, self._world.loop
        delivered = heard = from_revision - 1
        connection = service.watches_broken
        while True:
            while not (service.asks(self._me) and service.answers(self._me)):
                heard = delivered
                await asyncio.sleep(PAUSE)
            if connection != service.watches_broken:
                connection, heard = service.watches_broken, delivered
            if heard == delivered:  # it asks from there, and learns if that is gone
                etcd.check_compaction(prefix, heard + 1)
            events = tuple(etcd.events(prefix, heard))
            heard = etcd.revision
            if events:
                if lag := service.lag.get(self._me, 0.0):
                    await asyncio.sleep(lag)
                delivered = events[-1].kv.mod_revision
                yield WatchBatch(delivered, events)
                continue
            changed = loop.create_future()

            def wake(changed: asyncio.Future[None] = changed) -> None:
                loop.after(self._world.some(*LATENCY), lambda: changed.done() or changed.set_result(None))

            etcd.on_change.append(wake)
            timer = loop.call_later(SIGN_OF_LIFE, wake)
            try:
                await changed
            finally:
                timer.cancel()

    async def grant(self, ttl: float) -> Lease:
        return await self._read("grant a lease", lambda: self._service.etcd.grant(ttl))

    async def keep_alive(self, lease_id: int, key: str) -> Renewal:
        lease = await self._read("renew a lease", lambda: self._service.etcd.keep_alive(lease_id))
        return Renewal(lease.ttl, await self.get(key))

    async def revoke(self, lease_id: int) -> None:
        await self._read("revoke a lease", lambda: self._service.etcd.revoke(lease_id))

    async def status(self) -> tuple[MemberStatus, ...]:
        return ()


def _unknown(what: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{what}: the answer of etcd was lost. It may have been carried out or may yet be")
