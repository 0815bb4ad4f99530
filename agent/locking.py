"""The lock of a guest whose disks are on shared storage: held while this node, its owner, changes them.

Guards invariant 5 where another node reaches the same images. `locks/<vmid>` is got for one piece of work and let go
of after it, so an idle guest's is free. Its token goes with every change into the storage's own marks, which refuse an
older one: whoever was stalled past the end of his lease finds that out from the storage itself, if not before.
Replicas are not changed under it: theirs bear the node that keeps them, and a first sync may take hours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from holdfast.agent.ports import LockToken, Refused, Volumes
from holdfast.agent.scanner import Scanner
from holdfast.agent.view import View
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.planning.observed import is_rbd
from holdfast.coordinator.store.lock_queue import Waiting
from holdfast.coordinator.store.locks import TTL, Held, Locks
from holdfast.coordinator.store.port import LeaseLost, StoreError

PATIENCE = 10.0
"""Seconds for which a lock is waited for at once; whoever wants it tries again later."""
PASSING = frozenset({"GuestLocked", "LockUnavailable", "LockLost"})
"""Reasons of a refusal that passes by itself: what was wanted is tried again."""

T = TypeVar("T")


class GuestLocks:
    """Those of one node."""

    def __init__(self, me: str, view: View, locks: Locks, keys: Keyspace, volumes: Volumes, scanner: Scanner) -> None:
        self._me = me
        self._view = view
        self._keys = keys
        self._locks = locks
        self._volumes = volumes
        self._scanner = scanner
        self._held: dict[int, Held] = {}

    def _wanted(self, vmid: int) -> bool:
        """Whether this node changes the guest's own volumes, and others could as well: those that it has or had."""
        protection = self._view.protection(vmid)
        has = {disk.dataset for disk in protection.disks} if protection else set()
        had = {pool for pool, marked in self._scanner.anchors() if marked == vmid}
        return self._is_owner(vmid) and any(map(is_rbd, has | had))

    def _is_owner(self, vmid: int) -> bool:
        owner = self._view.owner(vmid)
        return owner is not None and owner.node == self._me

    async def run(self, vmid: int, operation: str, work: Callable[[bool], Awaitable[T]]) -> T:
        """Do `work` under the guest's lock, where it needs one. It is told whether somebody else had that until now.

        Raises what the work does, or Refused: somebody else has the lock, etcd does not give it, or it was lost, and
        then the work was cancelled.
        """
        if not self._wanted(vmid):
            return await work(False)
        told: list[Waiting] = []
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                return await self._locks.run(
                    [vmid], operation, partial(self._work, vmid, work, limit, told), told.append
                )
        except TimeoutError:
            if not limit.expired():
                raise
            raise _not_got(vmid, told) from None
        except LeaseLost as lost:
            raise Refused("LockLost", f"{lost}. What was begun is gone on with under the next lock.") from None
        except StoreError as error:
            raise Refused("LockUnavailable", f"its lock cannot be got: {error}") from None

    async def _work(
        self,
        vmid: int,
        work: Callable[[bool], Awaitable[T]],
        limit: asyncio.Timeout,
        told: list[Waiting],
        held: Held,
    ) -> T:
        limit.reschedule(None)
        with self.shown(vmid, held):
            return await work(bool(told))

    @contextmanager
    def shown(self, vmid: int, held: Held) -> Iterator[None]:
        """What is changed inside the block is changed under this lock."""
        self._held[vmid] = held
        try:
            yield
        finally:
            if self._held.get(vmid) is held:
                del self._held[vmid]

    def token(self, vmid: int) -> LockToken | None:
        """What a change of the guest's volumes bears; None for a replica's. Refused where the lock is not held."""
        if not self._is_owner(vmid):
            return None
        held = self._held.get(vmid)
        if held is None or not held.valid():
            raise Refused("LockLost", f"the lock of guest {vmid} is not held (any more); nothing was changed.")
        return LockToken(self._view.generation or 1, held.tokens[self._keys.lock(vmid)])

    async def confirm(self, vmid: int, epoch: int, pools: Iterable[str]) -> None:
        """Have each shared storage check epoch and token, before a change that does not by itself. Refused."""
        for pool in sorted(set(pools)):
            if is_rbd(pool) and self._is_owner(vmid):
                await self._volumes.raise_epoch(pool, vmid, epoch)


def _not_got(vmid: int, told: list[Waiting]) -> Refused:
    if not told:
        return Refused("LockUnavailable", f"etcd did not give the lock of guest {vmid} within {PATIENCE:.0f} s.")
    return Refused(
        "GuestLocked",
        f"{told[-1]}; until then nothing of its volumes on shared storage is changed here. It is tried again. If that"
        f" holder has died, the lock goes by itself within {TTL:.0f} s.",
    )
