"""A lease that its holder keeps alive, and that expires at the holder before it does at the store.

1. A term counts from before the request for it was sent, so it ends here no later than there.
2. A renewal counts only if a read that follows, by way of the same member, still sees the key that the lease is held
   for, and sees it under this lease.
3. A term that has run out is never revived: whoever was stalled past it has lost, whatever the store still says.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NoReturn

from holdfast.coordinator.store.port import LeaseLost, Store, StoreError, Unavailable

_RENEWALS_PER_TERM = 3
_RETRY_PAUSE = 0.2  # seconds after a renewal that no member answered
_LEAST = 0.001  # seconds of a term; less is none: a timer may be rounded to now, and time would not pass
_RELEASE_LIMIT = 2.0  # seconds; what cannot be revoked by then is left to expire


class HeldLease:
    """A granted lease; made by `hold`."""

    def __init__(self, store: Store, lease_id: int, ttl: float, until: float, clock: Callable[[], float]) -> None:
        self.id = lease_id
        self.ttl = ttl
        self._store = store
        self._until = until
        self._clock = clock

    @classmethod
    async def hold(cls, store: Store, ttl: float, clock: Callable[[], float]) -> "HeldLease":
        """Get a new lease of `ttl` seconds. `clock` must go on while the machine is suspended (CLOCK_BOOTTIME)."""
        before = clock()
        lease = await store.grant(ttl)
        return cls(store, lease.id, lease.ttl, before + lease.ttl, clock)

    def remaining(self) -> float:
        """Seconds left of the term; zero or less: lost."""
        return self._until - self._clock()

    async def keep(self, key: str, create_revision: int) -> NoReturn:
        """Renew until cancelled; `LeaseLost` once the term has run out or the key is no longer this holder's."""
        pause = self.ttl / _RENEWALS_PER_TERM
        while True:
            await asyncio.sleep(min(pause, max(0.0, self.remaining())))
            if (left := self.remaining()) < _LEAST:
                raise LeaseLost(f"{key}: lease {self.id:x} ran out before it could be renewed. Claim it again")
            pause = _RETRY_PAUSE
            try:
                async with asyncio.timeout(left):
                    await self._renew(key, create_revision)
                pause = self.ttl / _RENEWALS_PER_TERM
            except (Unavailable, TimeoutError):
                continue
            except LeaseLost:
                self._until = self._clock()
                raise

    async def _renew(self, key: str, create_revision: int) -> None:
        before = self._clock()
        renewal = await self._store.keep_alive(self.id, key)
        seen = renewal.seen
        if seen is None or seen.create_revision != create_revision or seen.lease != self.id:
            raise LeaseLost(f"{key}: somebody removed it or put another in its place. Claim it again")
        self._until = before + renewal.ttl

    async def release(self) -> None:
        """End it at the store, if that can be done at once; a lease that stays behind expires by itself."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_RELEASE_LIMIT):
                await self._store.revoke(self.id)
        self._until = self._clock()
