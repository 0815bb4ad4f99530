"""The way to one guest's lock: a ticket beside it, and the claim once it is free and this ticket is the oldest.

Each step is decided by what is read, so that a step whose answer was lost is found done, or taken again. All that it
writes hangs on the lease: what arrives late finds none.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.lock import Lock
from holdfast.coordinator.store.port import (
    Compacted,
    KeyValue,
    OutcomeUnknown,
    Put,
    Store,
    Unavailable,
    absent,
    created_at,
)
from pydantic import ValidationError

log = structlog.get_logger()

_PAUSE = 0.5  # seconds before a step that was not answered is taken again


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why an operation does not go on yet."""

    vmid: int
    lock: Lock | None
    """Who holds it; None where the holder has just gone, or its record cannot be read."""
    ahead: int
    """How many others come first, the holder not counted."""

    def __str__(self) -> str:
        held = f" by {self.lock.holder} for {self.lock.operation} since {self.lock.since:%F %T %Z}" if self.lock else ""
        return f"guest {self.vmid} is locked{held}" + (f", {self.ahead} before this in the queue" if self.ahead else "")


@dataclass(frozen=True, slots=True)
class _Seen:
    """The lock and its tickets, the oldest first, at one revision."""

    lock: KeyValue | None
    tickets: tuple[KeyValue, ...]
    revision: int


class LockQueue:
    """One guest's lock as one lease may come to it."""

    def __init__(self, store: Store, keyspace: Keyspace, vmid: int, lease: int, record: Callable[[], Lock]) -> None:
        """`record`: who wants it and for what, as of now."""
        self.lock = keyspace.lock(vmid)
        self.ticket = f"{keyspace.lock_queue(vmid)}{lease:x}"
        self._queue = keyspace.lock_queue(vmid)
        self._store = store
        self._vmid = vmid
        self._lease = lease
        self._record = record

    async def join(self) -> int:
        """Put the ticket; returns its create_revision. LeaseLost."""
        while True:
            try:
                if mine := self._mine(await self._look()):
                    return mine.create_revision
                await self._store.transact([absent(self.ticket)], [self._put(self.ticket)])
            except (Unavailable, OutcomeUnknown) as reason:
                await self._pause(reason)

    async def claim(self, waiting: Callable[[Waiting], None]) -> int:
        """Wait for the lock; returns its create_revision. `waiting` is told whenever the reason changes. LeaseLost."""
        told: Waiting | None = None
        while True:
            try:
                seen = await self._look()
                if seen.lock and seen.lock.lease == self._lease:
                    return seen.lock.create_revision
                mine = self._mine(seen)
                if mine is None:
                    await self._store.transact([absent(self.ticket)], [self._put(self.ticket)])
                elif seen.lock is None and seen.tickets[0] == mine:
                    still = created_at(self.ticket, mine.create_revision)
                    await self._store.transact([absent(self.lock), still], [self._put(self.lock)])
                else:
                    if (now := self._waiting(seen, mine)) != told:
                        log.info("lock.waiting", vmid=self._vmid, reason=str(now))
                        waiting(now)
                        told = now
                    await self._until_freed(seen.revision)
            except (Unavailable, OutcomeUnknown, Compacted) as reason:
                await self._pause(reason)

    async def _look(self) -> _Seen:
        listing = await self._store.list(self.lock)  # of guests whose number begins alike, too
        tickets = [item for item in listing.items if item.key.startswith(self._queue)]
        tickets.sort(key=lambda ticket: ticket.create_revision)
        lock = next((item for item in listing.items if item.key == self.lock), None)
        return _Seen(lock, tuple(tickets), listing.revision)

    def _mine(self, seen: _Seen) -> KeyValue | None:
        return next((ticket for ticket in seen.tickets if ticket.key == self.ticket), None)

    def _put(self, key: str) -> Put:
        return Put(key, self._record().to_json(), self._lease)

    def _waiting(self, seen: _Seen, mine: KeyValue) -> Waiting:
        holder = seen.lock.lease if seen.lock else 0
        ahead = sum(ticket.create_revision < mine.create_revision and ticket.lease != holder for ticket in seen.tickets)
        try:
            lock = Lock.model_validate_json(seen.lock.value) if seen.lock else None
        except ValidationError:
            lock = None
        return Waiting(self._vmid, lock, ahead)

    async def _until_freed(self, revision: int) -> None:
        """Until the lock changes hands, or somebody leaves the queue."""
        async with aclosing(self._store.watch(self.lock, revision + 1)) as batches:
            async for batch in batches:
                for event in batch.events:
                    key = event.kv.key
                    if key == self.lock or (key.startswith(self._queue) and event.kind == "delete"):
                        return

    async def _pause(self, reason: Exception) -> None:
        log.warning("lock.retry", vmid=self._vmid, reason=str(reason))
        await asyncio.sleep(_PAUSE)
