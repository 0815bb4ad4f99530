"""One prefix of the keyspace in memory, kept current by a single watch.

1. The view is the store's at one revision and only moves forward.
2. Whatever happened to a key while the watch was away, its subscribers get one change from what they last saw to what
   is there now; so a key that vanished in the gap is a deletion.
3. How old the view may be is always known (`staleness`).
"""

import asyncio
import bisect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from holdfast.coordinator.store.port import Compacted, Event, KeyValue, Listing, Store, Unavailable, WentBack

log = structlog.get_logger()

_PAUSE = 0.5  # seconds before a load that no member answered is tried again


@dataclass(frozen=True, slots=True)
class Change:
    """A key as it was and as it is; None where it does not exist."""

    key: str
    old: KeyValue | None
    new: KeyValue | None


Callback = Callable[[Change], None]


class Cache:
    """A view of all keys under `prefix`; current while `run` runs."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        admit: Callable[[Listing], None] = lambda listing: None,
    ) -> None:
        """`clock`: monotonic seconds, for `staleness`. `admit`: raises where a listing must not become the view."""
        self.prefix_watched = prefix
        self.synced = asyncio.Event()
        self.revision = 0
        self.relists = 0
        self._store = store
        self._clock = clock
        self._admit = admit
        self._heard = -math.inf
        self._items: dict[str, KeyValue] = {}
        self._order: list[str] = []
        self._subscribers: list[tuple[str, Callback]] = []
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> KeyValue | None:
        """The key as last heard; None if it is absent."""
        return self._items.get(key)

    def prefix(self, prefix: str) -> Iterator[KeyValue]:
        """All keys that start with `prefix`, in order. Do not await while iterating."""
        for at in range(bisect.bisect_left(self._order, prefix), len(self._order)):
            key = self._order[at]
            if not key.startswith(prefix):
                return
            yield self._items[key]

    def staleness(self) -> float:
        """Seconds since the store was last heard of; infinite before the first load."""
        return self._clock() - self._heard

    def subscribe(self, prefix: str, callback: Callback) -> Callable[[], None]:
        """Call `callback` on each change of a key that starts with `prefix`; returns what ends it.

        Callbacks run on the loop between two events, and must neither block nor raise: an exception ends `run`.
        """
        entry = (prefix, callback)
        self._subscribers.append(entry)
        return lambda: self._subscribers.remove(entry)

    async def changed(self, since: int) -> int:
        """Wait until the view is newer than revision `since`; returns its revision."""
        while self.revision <= since:
            await self._moved.wait()
        return self.revision

    async def run(self) -> None:
        """Load, then follow, until cancelled. Raises what the store raises for good, `WentBack` among it."""
        while True:
            self._replace(await self._load())
            self.synced.set()
            try:
                await self._follow()
            except Compacted as reason:
                self.relists += 1
                log.warning("cache.relist", prefix=self.prefix_watched, revision=self.revision, reason=str(reason))

    async def _load(self) -> Listing:
        while True:
            try:
                return await self._store.list(self.prefix_watched)
            except (Unavailable, Compacted) as reason:
                log.warning("cache.unavailable", prefix=self.prefix_watched, reason=str(reason))
                await asyncio.sleep(_PAUSE)

    async def _follow(self) -> None:
        async with aclosing(self._store.watch(self.prefix_watched, self.revision + 1)) as batches:
            async for batch in batches:
                self._heard = self._clock()
                for event in batch.events:
                    self._apply(event)
                self._move_to(batch.revision)

    def _replace(self, listing: Listing) -> None:
        if listing.revision < self.revision:
            raise WentBack(
                f"etcd is at revision {listing.revision} but was at {self.revision} before: it was restored from an "
                "old backup, or is another cluster. Stop Holdfast on all nodes before letting it go on from there"
            )
        self._admit(listing)
        self._heard = self._clock()
        present = {item.key for item in listing.items}
        for key in [key for key in self._order if key not in present]:
            self._set(key, None)
        for item in listing.items:
            self._set(item.key, item)
        self._move_to(listing.revision)

    def _apply(self, event: Event) -> None:
        if event.kv.mod_revision > self.revision:
            self._set(event.kv.key, event.kv if event.kind == "put" else None)

    def _set(self, key: str, new: KeyValue | None) -> None:
        old = self._items.get(key)
        if old == new:
            return
        if new is None:
            del self._items[key]
            del self._order[bisect.bisect_left(self._order, key)]
        else:
            self._items[key] = new
            if old is None:
                bisect.insort(self._order, key)
        change = Change(key, old, new)
        for prefix, callback in list(self._subscribers):
            if key.startswith(prefix):
                callback(change)

    def _move_to(self, revision: int) -> None:
        if revision > self.revision:
            self.revision = revision
            self._moved.set()
            self._moved = asyncio.Event()
