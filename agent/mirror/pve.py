"""Keeps desired storages and guests as `/etc/pve` has them.

One node at a time, elected; it stands down where its `/etc/pve` is gone or has lost its quorum, for then another node
knows better. What is missing in a tree is removed only when two complete looks in a row miss it: a guest that migrates
is for a moment in neither place.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import structlog
from holdfast.agent.ports import Host
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.mirror.records import Records, mirrored
from holdfast.coordinator.mirror.sync import Changes, compare, leader_key, read, write
from holdfast.coordinator.mirror.tree import Tree, TreeReader
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.election import Election, Leadership
from holdfast.coordinator.store.port import Store, StoreError

log = structlog.get_logger()

INTERVAL = 0.5  # seconds between two looks; a change counts at the second, so it is written within about one
REPEAT = 60.0  # seconds after which the keyspace is compared again though nothing changed here
TTL = 10.0  # seconds of the leader's lease
_PATIENCE = 10  # looks at a tree that is gone before the leader stands down
_PAUSE = 5.0  # seconds before another try after the store refused something


class PveMirror:
    """Run `run` beside the agent's other work; it ends only when cancelled."""

    def __init__(
        self,
        store: Store,
        keyspace: Keyspace,
        node: str,
        root: Path = Path("/etc/pve"),
        *,
        host: Host,
        interval: float = INTERVAL,
        ttl: float = TTL,
    ) -> None:
        """`interval`, `ttl`: seconds."""
        self._store = store
        self._keyspace = keyspace
        self._node = node
        self._root = root
        self._host = host
        self._interval = interval
        self._ttl = ttl
        self._reader = TreeReader(root)
        self._known: tuple[Mapping[str, bytes], Records] | None = None  # the last files, and what they say

    async def run(self) -> None:
        """Stand for election while there is something to mirror; mirror when elected."""
        while True:
            await self._until_usable()
            try:
                async with TaskGroup() as group:
                    standing = group.create_task(self._stand())
                    await self._until_unusable()
                    standing.cancel()
            except* StoreError as refused:
                log.error("mirror.failed", reason=str(refused.exceptions[0]))
                await asyncio.sleep(_PAUSE)

    async def _stand(self) -> None:
        key = leader_key(self._keyspace)
        await Election(self._store, key, self._node, ttl=self._ttl, clock=self._host.monotonic).run(self._mirror)

    async def _look(self, afresh: bool = False) -> tuple[Tree, Records]:
        # pmxcfs answers slowly when its cluster is in trouble, and there may be thousands of guests: not on the loop
        return await self._host.blocking(partial(self._look_now, afresh))

    def _look_now(self, afresh: bool) -> tuple[Tree, Records]:
        tree = self._reader.look(afresh)
        if self._known is None or self._known[0] != tree.files:
            self._known = tree.files, mirrored(tree)
        return tree, self._known[1]

    async def _until_usable(self) -> None:
        while True:
            if _usable((await self._look())[0]):
                return
            await asyncio.sleep(self._interval)

    async def _until_unusable(self) -> None:
        missed = 0
        while missed < _PATIENCE:
            await asyncio.sleep(self._interval)
            missed = 0 if await self._host.blocking(self._reader.is_writable) else missed + 1
        log.warning("mirror.stands_down", root=str(self._root), reason="it is gone, or without quorum")

    async def _mirror(self, leadership: Leadership) -> None:
        written: Records | None = None
        names: frozenset[str] | None = None  # of the last complete look
        cleared: frozenset[str] | None = None  # the names beside which nothing is left over
        due = self._host.monotonic() + REPEAT
        told: list[str] = []
        while True:
            afresh = self._host.monotonic() >= due
            tree, records = await self._look(afresh)
            if _usable(tree):
                if records.problems != told:
                    told = records.problems
                    log.warning("mirror.problems", problems=told[:20], count=len(told))
                before, names = names, _names(records) if tree.complete else None
                remove = names is not None and names == before and (names != cleared or afresh)
                stale = written is None or records.found != written.found or remove or afresh
                if stale and await self._write(records, remove, leadership):
                    written, due = records, self._host.monotonic() + REPEAT
                    cleared = names if remove else cleared
            await asyncio.sleep(self._interval)

    async def _write(self, records: Records, remove: bool, leadership: Leadership) -> bool:
        try:
            changes = await self._synchronise(records, remove, leadership)
        except StoreError as error:
            log.warning("mirror.retry", reason=str(error))
            return False
        if changes:
            log.info("mirror.wrote", created=changes.created, changed=changes.changed, removed=changes.removed)
        return changes is not None

    async def _synchronise(self, records: Records, remove: bool, leadership: Leadership) -> Changes | None:
        """As `synchronise` does it, but comparing thousands of guests takes a while: off the loop."""
        existing, index = await read(self._store, self._keyspace, records)
        compared = partial(compare, self._keyspace, records, existing, index, remove)
        changes = await self._host.blocking(compared)
        written = await write(self._store, self._keyspace, records, index, changes, [leadership.guard])
        return changes if written else None


def _usable(tree: Tree) -> bool:
    return tree.writable and "storage.cfg" in tree.files


def _names(records: Records) -> frozenset[str]:
    """Every name that the source has, also where it makes no record."""
    return frozenset(
        f"{folder}/{name}" for part in (records.found, records.unreadable) for folder in part for name in part[folder]
    )
