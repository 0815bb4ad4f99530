"""A process that holds something leased and does something under it every 20 ms; run by tests that stop or kill it.

`ENDPOINTS election KEY TTL` or `ENDPOINTS lock VMID TTL`. Prints `held TOKEN`, `effect N`, `expired`, `late write ...`.
"""

import asyncio
import sys

from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.election import Election, Leadership
from holdfast.coordinator.store.locks import Held, Locks
from holdfast.coordinator.store.port import Compare, LeaseLost, Put

_PERIOD = 0.02  # seconds


def say(*words: object) -> None:
    print(*words, flush=True)


class Holder:
    """Does something as long as it may."""

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self._guards: tuple[Compare, ...] = ()

    async def lead(self, leadership: Leadership) -> None:
        self._guards = (leadership.guard,)
        say("held", leadership.token)
        await self._work(leadership)

    async def hold(self, held: Held) -> None:
        self._guards = held.guards
        say("held", *held.tokens.values())
        await self._work(held)

    async def _work(self, under: Leadership | Held) -> None:
        number = 0
        while under.valid():
            say("effect", number)
            number += 1
            await asyncio.sleep(_PERIOD)
        say("expired")
        done = await self._store.transact(self._guards, [Put("/late", b"")])
        say("late write", "carried out" if done.succeeded else "refused")


async def main() -> None:
    endpoints, kind, what, ttl = sys.argv[1:]
    async with EtcdStore(endpoints.split(",")) as store:
        holder = Holder(store)
        if kind == "election":
            await Election(store, what, "child", ttl=float(ttl)).run(holder.lead)
        else:
            locks = Locks(store, Keyspace(), "child", SystemClock(), ttl=float(ttl))
            try:
                await locks.run([int(what)], "a test of stops", holder.hold)
            except LeaseLost as lost:
                say("lost", lost)


if __name__ == "__main__":
    asyncio.run(main())
