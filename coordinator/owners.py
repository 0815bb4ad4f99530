"""The leading coordinator's loop: it names the first owner of every guest. Guards invariant 1, single writer.

1. An owner is created only where there is none, in one transaction with the proof that this coordinator still leads.
   Whatever the cache believes, the store decides; a deposed leader's write fails, however late it arrives.
2. An owner that exists is not touched here, whatever else the records say.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog
from holdfast.coordinator.clock import Clock
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Meta, Owner
from holdfast.coordinator.planning.desired import Records, describe
from holdfast.coordinator.planning.ownership import first_owners, stale_requests
from holdfast.coordinator.store.cache import Cache, Change
from holdfast.coordinator.store.election import Leadership
from holdfast.coordinator.store.port import (
    MAX_OPERATIONS,
    Delete,
    Operation,
    OutcomeUnknown,
    Put,
    Store,
    Unavailable,
    absent,
    unchanged,
)
from pydantic import ValidationError

log = structlog.get_logger()

FORMAT = 1
"""Of the keyspace; a newer one is not ours to decide in."""
_LOOK_AGAIN = 60.0
"""Seconds until requests are looked through again although nothing changed."""
_PAUSE = 1.0
"""Seconds before a decision is made anew that could not be written."""


class KeyspaceRefused(Exception):
    """The keyspace is of a kind that this version must not decide in; the message says what to do."""


class Owners:
    """Follows desired state all the time; decides while it leads. Make it before the cache runs."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        keyspace: Keyspace,
        name: str,
        clock: Clock,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._store = store
        self._cache = cache
        self._keyspace = keyspace
        self._name = name
        self._clock = clock
        self._new_uuid = new_uuid
        self._records = Records()
        self._changed = asyncio.Event()
        cache.subscribe(keyspace.desired_prefix, self._follow)
        cache.subscribe(keyspace.owners_prefix, lambda _: self._changed.set())

    def _follow(self, change: Change) -> None:
        path = change.key.removeprefix(self._keyspace.desired_prefix)
        if change.new is None:
            self._records.delete(path)
        else:
            self._records.put(path, change.new.value, change.new.create_revision)
        self._changed.set()

    async def lead(self, leadership: Leadership) -> None:
        """Decide until cancelled. Raises KeyspaceRefused."""
        await self._cache.synced.wait()
        while True:
            self._changed.clear()
            try:
                await self._found(leadership)
                settled = await self._create(leadership)
                await self._prune(leadership)
            except (Unavailable, OutcomeUnknown) as reason:  # decided anew from what is then read
                log.warning("owners.retry", reason=str(reason))
                settled = False
            if settled:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await self._changed.wait()
            else:
                await asyncio.sleep(_PAUSE)

    async def _found(self, leadership: Leadership) -> None:
        """See that the keyspace is one that we know; a new one gets its identity."""
        key = self._keyspace.meta
        present = self._cache.get(key) or await self._store.get(key)
        if present is None:
            meta = Meta(format=FORMAT, cluster_uuid=str(self._new_uuid()))
            done = await self._store.transact([absent(key), leadership.guard], [Put(key, meta.to_json())])
            if done.succeeded:
                log.info("keyspace.founded", cluster=self._keyspace.cluster, uuid=meta.cluster_uuid)
            return
        try:
            meta = Meta.model_validate_json(present.value)
        except ValidationError as error:
            raise KeyspaceRefused(
                f"{key} cannot be read: {describe(error)}. Restore it from a backup of etcd; nothing is decided until"
            ) from None
        if meta.format != FORMAT:
            raise KeyspaceRefused(
                f"{key} is of format {meta.format}, this version knows {FORMAT}: install the version of holdfast that"
                " the other nodes run"
            )

    async def _create(self, leadership: Leadership) -> bool:
        """Name the missing owners; False if some could not be written and must be looked at again."""
        owned = {
            int(name)
            for item in self._cache.prefix(self._keyspace.owners_prefix)
            if (name := item.key.removeprefix(self._keyspace.owners_prefix)).isdecimal()
        }
        missing = list(first_owners(self._records.desired(), owned, self._name, self._clock.now()).items())
        settled = True
        size = MAX_OPERATIONS - 1  # the guard is a compare too
        for at in range(0, len(missing), size):
            batch = dict(missing[at : at + size])
            if await self._put(batch, leadership):
                continue
            # one of them has got an owner meanwhile, or we no longer lead: then each of these fails as well
            for vmid, owner in batch.items():
                settled = await self._put({vmid: owner}, leadership) and settled
        return settled

    async def _put(self, owners: Mapping[int, Owner], leadership: Leadership) -> bool:
        keys = {vmid: self._keyspace.owner(vmid) for vmid in owners}
        compares = [leadership.guard, *(absent(key) for key in keys.values())]
        puts = [Put(keys[vmid], owner.to_json()) for vmid, owner in owners.items()]
        done = await self._store.transact(compares, puts)
        if done.succeeded:
            for vmid, owner in owners.items():
                log.info("owner.created", vmid=vmid, node=owner.node, epoch=owner.epoch)
        return done.succeeded

    async def _prune(self, leadership: Leadership) -> None:
        """Remove requests that are too old to matter."""
        for id in stale_requests(self._records.desired().requests, self._clock.now()):
            item = self._cache.get(self._keyspace.desired("requests", id))
            if item is None:
                continue
            delete: Operation = Delete(item.key)
            done = await self._store.transact([leadership.guard, unchanged(item.key, item.mod_revision)], [delete])
            if done.succeeded:
                log.info("request.pruned", id=id)
