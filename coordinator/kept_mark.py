"""The keyspace that a coordinator decided in, kept over its restarts. Guards invariant 6: it decides in no older one.

Without it, a coordinator would found an etcd that was lost anew, and name owners whose epochs begin again at 1.
"""

import asyncio

import structlog
from holdfast.coordinator.host import Host
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.mark import Mark, mark_of
from holdfast.coordinator.store.port import Listing
from pydantic import ValidationError

log = structlog.get_logger()

FILE = "mark.json"
_PAUSE = 1.0
"""Seconds between two writes of the file."""


class KeptMark:
    """What was last seen of the keyspace."""

    def __init__(self, host: Host, keyspace: Keyspace) -> None:
        self._host = host
        self._keyspace = keyspace
        self._mark = self._load()

    def _load(self) -> Mark | None:
        if (kept := self._host.load(FILE)) is None:
            return None
        try:
            return Mark.model_validate_json(kept)
        except ValidationError:
            log.warning("mark.unreadable", file=FILE, reason="the keyspace is taken as it is")
            return None

    def admit(self, listing: Listing) -> None:
        """WentBack if it is of an older keyspace, or another one."""
        if self._mark:
            meta = next((item for item in listing.items if item.key == self._keyspace.meta), None)
            self._mark.check(meta, listing.revision, FILE)

    async def keep(self, cache: Cache) -> None:
        """Until cancelled: save it whenever what is decided, or decided on, has changed."""
        changed = asyncio.Event()
        keys = self._keyspace
        for prefix in (keys.meta, keys.desired_prefix, keys.owners_prefix):
            cache.subscribe(prefix, lambda _: changed.set())
        await cache.synced.wait()
        while True:
            changed.clear()
            mark = mark_of(cache.get(keys.meta), cache.revision)
            if mark and mark != self._mark:
                await self._host.save(FILE, mark.to_json())
                self._mark = mark
            await changed.wait()
            await asyncio.sleep(_PAUSE)
