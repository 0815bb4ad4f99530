"""One leader among many candidates.

1. The leader key exists under the leader's lease, and its create_revision is the leader's token.
2. Every deciding write compares that token, so a deposed leader's write fails, however late it arrives.
3. Whoever cannot renew its lease in time stops leading before another can start.
4. A leader key without a lease is nobody's (a person's, or a restore's): it is removed, one term after it was seen.
5. A claim whose answer was lost is given up by revoking its lease: should it still arrive, it finds no lease.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog
from holdfast.coordinator.clock import boottime
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.store.lease import HeldLease
from holdfast.coordinator.store.port import (
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseLost,
    OutcomeUnknown,
    Put,
    Store,
    Unavailable,
    absent,
    created_at,
    unchanged,
)

log = structlog.get_logger()

_PAUSE = 0.5  # seconds before a claim that failed is tried again


class Leadership:
    """One term of one leader."""

    def __init__(self, key: str, token: int, lease: HeldLease) -> None:
        self.key = key
        self.token = token
        self.lease = lease

    @property
    def guard(self) -> Compare:
        """Put this into every deciding transaction: it then fails once this term is over."""
        return created_at(self.key, self.token)

    def valid(self) -> bool:
        """Whether the term still runs, by the local clock; look before each effect that etcd cannot guard."""
        return self.lease.remaining() > 0


class Election:
    """A candidate for one leader key."""

    def __init__(
        self, store: Store, key: str, candidate: str, *, ttl: float, clock: Callable[[], float] = boottime
    ) -> None:
        """`candidate`: the name written into the key. `ttl`: seconds."""
        self._store = store
        self._key = key
        self._candidate = candidate
        self._ttl = ttl
        self._clock = clock

    async def run(self, lead: Callable[[Leadership], Awaitable[None]]) -> None:
        """Stand for election; call `lead` when elected and cancel it when deposed, again and again.

        Returns when `lead` returns (the leader resigns). Raises what `lead` raises, and what the store refuses.
        """
        while True:
            try:
                await self._until_free()
                leadership = await self._claim()
            except (Unavailable, OutcomeUnknown, Compacted, LeaseLost) as reason:
                log.warning("election.retry", key=self._key, candidate=self._candidate, reason=str(reason))
                await asyncio.sleep(_PAUSE)
                continue
            if leadership and await self._lead(leadership, lead):
                return

    async def _until_free(self) -> None:
        held = await self._store.get(self._key)
        while held and held.lease:
            held = await self._next(held.mod_revision + 1)
        if held:
            reason = "it has no lease, so no leader keeps it; it is removed"
            log.warning("election.unleased", key=self._key, value=held.value.decode(errors="replace"), reason=reason)
            await asyncio.sleep(self._ttl)  # whoever held it under a lease before has noticed by then
            await self._store.transact([unchanged(self._key, held.mod_revision)], [Delete(self._key)])

    async def _next(self, from_revision: int) -> KeyValue | None:
        """The key as it is next written; None when it is deleted."""
        async with aclosing(self._store.watch(self._key, from_revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.kv.key == self._key:
                        return event.kv if event.kind == "put" else None
        raise Unavailable(f"watch {self._key}: it ended")

    async def _claim(self) -> Leadership | None:
        lease = await HeldLease.hold(self._store, self._ttl, self._clock)
        claimed = False
        try:
            put = Put(self._key, self._candidate.encode(), lease.id)
            result = await self._store.transact([absent(self._key)], [put])
            claimed = result.succeeded
        finally:
            if not claimed:
                await lease.release()
        return Leadership(self._key, result.revision, lease) if claimed else None

    async def _lead(self, leadership: Leadership, lead: Callable[[Leadership], Awaitable[None]]) -> bool:
        """Whether `lead` returned by itself."""
        log.info("election.won", key=self._key, candidate=self._candidate, token=leadership.token)
        resigned = False
        try:
            async with TaskGroup() as group:
                keeping = group.create_task(leadership.lease.keep(self._key, leadership.token))
                await lead(leadership)
                resigned = True
                keeping.cancel()
        except* LeaseLost as lost:
            log.warning("election.deposed", key=self._key, candidate=self._candidate, reason=str(lost.exceptions[0]))
        finally:
            await leadership.lease.release()
        return resigned
