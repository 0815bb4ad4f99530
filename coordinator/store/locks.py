"""One exclusive lock per guest, for what must not run beside anything else. Guards invariant 1, single writer.

1. `locks/<vmid>` exists under its holder's lease, and its create_revision is the token.
2. Every write under it compares the token in its own transaction, so one that comes too late fails.
3. Who wants it first puts a ticket beside it; only the oldest ticket may claim. A holder keeps its ticket.
4. Several are taken in the order of their VMIDs, all under one lease: two holders never wait for each other.
5. When the lease ends, locks and tickets go at once. Nobody else ever removes them.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from holdfast.coordinator.clock import Clock
from holdfast.coordinator.grouped import TaskGroup, first
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.lock import Lock
from holdfast.coordinator.store.lease import HeldLease
from holdfast.coordinator.store.lock_queue import LockQueue, Waiting
from holdfast.coordinator.store.port import (
    Compare,
    Get,
    LeaseLost,
    Operation,
    Store,
    TransactionResult,
    created_at,
)

TTL = 15.0
"""Seconds after which the locks of a holder that died are free."""

T = TypeVar("T")


class Held:
    """Locks that are held, as far as anyone can know here."""

    def __init__(self, store: Store, lease: HeldLease, tokens: Mapping[str, int]) -> None:
        self._store = store
        self._lease = lease
        self.tokens = tokens
        """Key of each lock → its create_revision."""

    @property
    def guards(self) -> tuple[Compare, ...]:
        """Put these into every transaction that is not made by `transact`."""
        return tuple(created_at(key, token) for key, token in self.tokens.items())

    def valid(self) -> bool:
        """Whether the lease still runs, by the local clock; look before each effect that etcd cannot guard."""
        return self._lease.remaining() > 0

    async def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        """As `Store.transact`, but only while all locks are held; else LeaseLost, and nothing was written."""
        looks = [Get(key) for key in self.tokens]
        done = await self._store.transact([*self.guards, *compares], success, [*looks, *failure])
        if done.succeeded:
            return done
        for seen, (key, token) in zip(done.results, self.tokens.items(), strict=False):
            if seen is None or seen.create_revision != token:
                raise LeaseLost(f"{key}: it is not held any more, nothing was written. Take it again")
        return TransactionResult(False, done.revision, done.results[len(looks) :])


class Locks:
    """Takes locks for one holder."""

    def __init__(self, store: Store, keyspace: Keyspace, holder: str, clock: Clock, *, ttl: float = TTL) -> None:
        """`holder`: the node or coordinator, as others are told. `ttl`: seconds."""
        self._store = store
        self._keyspace = keyspace
        self._holder = holder
        self._clock = clock
        self._ttl = ttl

    async def run(
        self,
        vmids: Iterable[int],
        operation: str,
        work: Callable[[Held], Awaitable[T]],
        waiting: Callable[[Waiting], None] = lambda _: None,
    ) -> T:
        """Wait for the locks of all these guests, do `work` under them, and let them go.

        `work` is cancelled when they are lost, and LeaseLost raised. `waiting` is told whenever somebody else is waited
        for. To give up after a while, use `asyncio.timeout`.
        """
        lease = await HeldLease.hold(self._store, self._ttl, self._clock.monotonic)

        def record() -> Lock:
            return Lock(holder=self._holder, operation=operation, since=self._clock.now())

        queues = [LockQueue(self._store, self._keyspace, vmid, lease.id, record) for vmid in sorted(set(vmids))]
        try:
            async with TaskGroup() as group:
                joined = await queues[0].join()
                keeping = group.create_task(lease.keep(queues[0].ticket, joined))
                tokens = {queue.lock: await queue.claim(waiting) for queue in queues}
                result = await work(Held(self._store, lease, tokens))
                keeping.cancel()
        except BaseExceptionGroup as failed:
            raise first(failed) from failed
        finally:
            await lease.release()
        return result
