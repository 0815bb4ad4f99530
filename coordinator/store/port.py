"""The Store port: everything that Holdfast asks of the shared keyspace, whoever keeps it.

What an implementation must keep, whatever fails beneath it:

1. A transaction is all or nothing, and no compare in it is judged on stale data.
2. A watch delivers every event from its start revision on, in order, once; or it raises. It never goes back.
3. A write whose answer was lost raises `OutcomeUnknown`; it is never silently sent twice.
4. Reads are linearizable.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol, TypeAlias

MAX_OPERATIONS = 100  # compares, or operations of one branch; etcd itself refuses more than 128


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as the store has it. `lease` is 0 where none is attached."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a prefix, in key order, as they were at `revision`: watch on from `revision + 1`."""

    items: tuple[KeyValue, ...]
    revision: int


class Field(Enum):
    """What a `Compare` looks at. An absent key has create and mod revision 0, and no value."""

    CREATE = "create"
    MOD = "mod"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: this field of this key equals `expected`."""

    key: str
    field: Field
    expected: int | bytes


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key, Field.CREATE, 0)


def created_at(key: str, create_revision: int) -> Compare:
    """The key exists since exactly this revision: the guard of whatever a lock or leader writes."""
    return Compare(key, Field.CREATE, create_revision)


def unchanged(key: str, mod_revision: int) -> Compare:
    """Nobody has written the key since this revision (0: it is still absent)."""
    return Compare(key, Field.MOD, mod_revision)


def value_is(key: str, value: bytes) -> Compare:
    """The key exists and holds exactly these bytes."""
    return Compare(key, Field.VALUE, value)


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key inside a transaction."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write one key; it goes when `lease` goes, if that is not 0."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key; deleting an absent one is no error."""

    key: str


Operation: TypeAlias = Get | Put | Delete


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """How a transaction ended.

    `succeeded`: every compare held and `success` was carried out, else `failure` was. `results` has one entry for
    each operation of that branch: what a `Get` read (None: absent), None for the others. `revision` is the store's
    after the transaction: what it wrote has it as mod_revision.
    """

    succeeded: bool
    revision: int
    results: tuple[KeyValue | None, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key. Of a deleted key only `key` and `mod_revision` (of the deletion) are set."""

    kind: Literal["put", "delete"]
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events in order of revision, those of one revision never split over batches.

    Everything up to `revision` has been delivered with this batch. One without events is a sign of life.
    """

    revision: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the store granted it; `ttl` in seconds, counted from before the request was sent."""

    id: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewed lease: its `ttl` in seconds, and the key that proves it as it was read afterwards (None: absent)."""

    ttl: float
    seen: KeyValue | None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member, asked directly. `error` says why it could not be asked; the rest is then empty."""

    endpoint: str
    version: str = ""
    is_leader: bool = False
    has_leader: bool = False
    database_bytes: int = 0
    alarms: tuple[str, ...] = ()
    error: str | None = None


class StoreError(Exception):
    """The store refused or failed; the message says what was asked, why it failed and what to do next."""


class Unavailable(StoreError):
    """No member answered in time; nothing was written. Retry later."""


class OutcomeUnknown(StoreError):
    """The answer to a write was lost: it may have been carried out, or may yet be. Re-read, then decide.

    A compare on the key's revision makes a late arrival harmless; an unguarded put has no such protection.
    """


class Compacted(StoreError):
    """The history asked for is gone; list again, then watch from there. `revision`: the oldest still kept."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class WentBack(StoreError):
    """The store is older than what was already read from it: an old backup, or another cluster."""


class LeaseLost(StoreError):
    """The lease has expired or was revoked, and its keys with it."""


class PermissionDenied(StoreError):
    """These credentials may not do this."""


class QuotaExceeded(StoreError):
    """The store's database is full; it refuses writes until it has been compacted and its alarm disarmed."""


class Refused(StoreError):
    """The request itself is wrong (too large, malformed): sending it again will not help."""


class Store(Protocol):
    """Keys are text, values bytes. Every method may raise any `StoreError`; all can be cancelled at any point."""

    async def get(self, key: str) -> KeyValue | None:
        """Read one key; None if it is absent."""
        ...

    async def list(self, prefix: str) -> Listing:
        """Read every key that starts with `prefix`, all at one revision."""
        ...

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key whatever it holds; returns its mod_revision. Only for keys that have a single writer."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete one key; False if it was absent already."""
        ...

    async def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        """Carry out `success` if every compare holds, else `failure`. At most `MAX_OPERATIONS` of each."""
        ...

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Follow a prefix from a revision on, over any faults; raises `Compacted` if that is no longer possible.

        Use it in `contextlib.aclosing`, so that the server is told when you stop.
        """
        ...

    async def grant(self, ttl: float) -> Lease:
        """A new lease of about `ttl` seconds (whole ones; the store may make it longer)."""
        ...

    async def keep_alive(self, lease_id: int, key: str) -> Renewal:
        """Renew once; `LeaseLost` if it is gone. Take the time before calling: the new term counts from there.

        It counts at all only if `key`, read afterwards by way of the same member, is still what the lease was got for.
        """
        ...

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys; no error if it is gone already."""
        ...

    async def status(self) -> tuple[MemberStatus, ...]:
        """Ask every configured member, each within about a second."""
        ...
