"""A model of etcd: revisions, transactions, leases, watches, compaction; checked against the real one.

It is one linearizable map. What its members and the way to them do to a client (late watches, lost answers, leases that
start anew with a leader) is done by faults and by `store`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.coordinator.store.port import (
    Compacted,
    Compare,
    Delete,
    Event,
    Field,
    Get,
    KeyValue,
    Lease,
    LeaseLost,
    Listing,
    Operation,
    Put,
    TransactionResult,
)


@dataclass(slots=True)
class HeldLease:
    """A lease and what hangs on it."""

    ttl: float
    until: float
    keys: set[str] = field(default_factory=set)


class Etcd:
    """One cluster; `now` is its own monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.revision = 1
        self.compacted = 0
        self.items: dict[str, KeyValue] = {}
        self.history: list[Event] = []
        self.leases: dict[int, HeldLease] = {}
        self.on_change: list[Callable[[], None]] = []
        self.on_put: Callable[[str, bytes], None] = lambda key, value: None
        self._now = now
        self._next_lease = 1000

    # --- reads

    def get(self, key: str) -> KeyValue | None:
        self.expire()
        return self.items.get(key)

    def list(self, prefix: str) -> Listing:
        self.expire()
        found = tuple(self.items[key] for key in sorted(self.items, key=str.encode) if key.startswith(prefix))
        return Listing(found, self.revision)

    def events(self, prefix: str, after: int) -> Sequence[Event]:
        """What happened under a prefix after a revision, as far as it is kept."""
        self.expire()
        found: list[Event] = []
        for event in reversed(self.history):
            if event.kv.mod_revision <= after:
                break
            if event.kv.key.startswith(prefix):
                found.append(event)
        found.reverse()
        return found

    def check_compaction(self, prefix: str, start: int) -> None:
        """Raises Compacted where a watch cannot begin at `start`."""
        if start < self.compacted:
            raise Compacted(f"watch {prefix}: history before revision {self.compacted} is gone", self.compacted)

    # --- writes

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        return self.transact((), (Put(key, value, lease),)).revision

    def delete(self, key: str) -> bool:
        self.expire()
        present = key in self.items
        self.transact((), (Delete(key),))
        return present

    def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        self.expire()
        holds = all(self._holds(compare) for compare in compares)
        branch = success if holds else failure
        for operation in branch:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self.leases:
                raise LeaseLost("etcdserver: requested lease not found")
        next_revision = self.revision + 1
        events: list[Event] = []
        results: list[KeyValue | None] = []
        for operation in branch:
            match operation:
                case Get():
                    results.append(self.items.get(operation.key))
                case Put():
                    events.append(self._put(operation, next_revision))
                    results.append(None)
                case Delete():
                    if operation.key in self.items:
                        events.append(self._delete(operation.key, next_revision))
                    results.append(None)
        self._changed(events)
        return TransactionResult(holds, self.revision, tuple(results))

    def _holds(self, compare: Compare) -> bool:
        item = self.items.get(compare.key)
        match compare.field:
            case Field.CREATE:
                return (item.create_revision if item else 0) == compare.expected
            case Field.MOD:
                return (item.mod_revision if item else 0) == compare.expected
            case Field.VALUE:
                return item is not None and item.value == compare.expected

    def _put(self, operation: Put, revision: int) -> Event:
        before = self.items.get(operation.key)
        if before is not None and before.lease in self.leases:
            self.leases[before.lease].keys.discard(operation.key)
        created, version = (before.create_revision, before.version + 1) if before else (revision, 1)
        item = KeyValue(operation.key, operation.value, created, revision, version, operation.lease)
        self.on_put(operation.key, operation.value)
        self.items[operation.key] = item
        if operation.lease:
            self.leases[operation.lease].keys.add(operation.key)
        return Event("put", item)

    def _delete(self, key: str, revision: int) -> Event:
        item = self.items.pop(key)
        if item.lease in self.leases:
            self.leases[item.lease].keys.discard(key)
        return Event("delete", KeyValue(key, b"", 0, revision, 0))

    def _changed(self, events: Sequence[Event]) -> None:
        if events:
            self.revision += 1
            self.history += events
            waiting, self.on_change = self.on_change, []
            for wake in waiting:
                wake()

    def compact(self, revision: int) -> None:
        """Forget what happened before a revision."""
        self.compacted = max(self.compacted, min(revision, self.revision))
        self.history = [e for e in self.history if e.kv.mod_revision >= self.compacted]

    # --- leases

    def grant(self, ttl: float) -> Lease:
        self.expire()
        self._next_lease += 1
        seconds = float(max(1, round(ttl)))
        self.leases[self._next_lease] = HeldLease(seconds, self._now() + seconds)
        return Lease(self._next_lease, seconds)

    def keep_alive(self, lease_id: int) -> Lease:
        self.expire()
        lease = self.leases.get(lease_id)
        if lease is None:
            raise LeaseLost(f"renew lease {lease_id:x}: it has expired or was revoked")
        lease.until = self._now() + lease.ttl
        return Lease(lease_id, lease.ttl)

    def revoke(self, lease_id: int) -> None:
        self.expire()
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            self._changed([self._delete(key, self.revision + 1) for key in sorted(lease.keys)])

    def expire(self) -> None:
        """Let go of leases whose time has come."""
        for lease_id in [i for i, lease in self.leases.items() if lease.until <= self._now()]:
            lease = self.leases.pop(lease_id)
            self._changed([self._delete(key, self.revision + 1) for key in sorted(lease.keys)])

    def new_leader(self) -> None:
        """A new leader counts every lease anew."""
        for lease in self.leases.values():
            lease.until = self._now() + lease.ttl
