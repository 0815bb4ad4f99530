"""Carries out the requests that name this node: rollback, clone, mount, unclone. Each once, whatever is restarted."""

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial

import structlog
from holdfast.agent import copying
from holdfast.agent.context import Context
from holdfast.agent.guest import GuestWorker
from holdfast.agent.locking import PASSING
from holdfast.agent.outcomes import Outcomes
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.rollback import Rollback
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.report import RequestState
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.copies import copies
from holdfast.coordinator.store.locks import Held, Locks
from holdfast.coordinator.store.port import Store, StoreError

log = structlog.get_logger()

RETRY = 5.0
"""Seconds after which what failed is tried again."""
LOOK = 30.0
"""Seconds between looks at what is mounted for longer than it was asked for."""


class Requests:
    """All requests to one node, each in a task of its own."""

    def __init__(
        self, context: Context, store: Store, keys: Keyspace, outcomes: Outcomes, guests: Mapping[int, GuestWorker]
    ) -> None:
        self._context = context
        self._store = store
        self._keys = keys
        self._outcomes = outcomes
        self._guests = guests
        self._locks = Locks(store, keys, context.me, context.host)

    async def run(self) -> None:
        """Until cancelled."""
        changed = self._context.view.subscribe()
        running: dict[str, asyncio.Task[None]] = {}
        async with TaskGroup() as group:
            while True:
                changed.clear()
                for id in [id for id, task in running.items() if task.done()]:
                    del running[id]
                wanted = self._wanted()
                await self._outcomes.forget([*wanted, *running])
                for id, request in wanted.items():
                    if id not in running and not self._outcomes.settled(id):
                        running[id] = group.create_task(self._until_settled(id, request))
                await self._unmount()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await changed.wait()

    def _wanted(self) -> dict[str, Request]:
        asked = self._context.view.desired.requests
        return {id: r for id, r in asked.items() if r.node == self._context.me} | self._outcomes.begun

    async def _until_settled(self, id: str, request: Request) -> None:
        while id in self._wanted():
            try:
                said = await self._carry_out(id, request)
            except Refused as refused:
                if refused.reason in PASSING:
                    self._outcomes.say(id, RequestState.WAITING, str(refused))
                    await asyncio.sleep(RETRY)
                    continue
                if id not in self._outcomes.begun or refused.reason == "NotOwner":
                    await self._outcomes.settle(id, RequestState.REFUSED, f"{refused.reason}: {refused}")
                    return
                self._outcomes.say(id, RequestState.FAILED, f"begun, and to be ended: {refused}")
            except (VolumesError, StoreError) as error:
                self._outcomes.say(id, RequestState.FAILED, f"it is tried again: {error}")
            except Exception as error:  # one request's failure leaves the others, and the agent, running
                log.exception("a request failed in a way nobody foresaw; it is tried again", id=id)
                self._outcomes.say(id, RequestState.FAILED, f"it is tried again: {error!r}")
            else:
                await self._outcomes.settle(id, RequestState.DONE, said)
                return
            await asyncio.sleep(RETRY)

    async def _carry_out(self, id: str, request: Request) -> str:
        match request.action:
            case "rollback":
                return await self._roll_back(id, request)
            case "clone" | "mount":
                operation = f"{request.action} of point {request.at}"
                making = partial(copying.make, self._context, request)
                made = await self._context.locks.run(request.vmid, operation, lambda _: making())
                return await copying.flatten(self._context, request) if request.flatten else made
            case "unclone":
                assert request.name is not None
                return await self._unclone(request.vmid, request.name)
            case _:
                raise Refused("UnknownAction", f"{self._context.me} does not carry out {request.action} by itself.")

    async def _unclone(self, vmid: int, name: str) -> str:
        removing = partial(copying.destroy, self._context, vmid, name)
        return await self._context.locks.run(vmid, f"unclone {name}", lambda _: removing())

    async def _roll_back(self, id: str, request: Request) -> str:
        guest = self._guests.get(request.vmid)
        if guest is None:
            raise Refused("NotOwner", f"{self._context.me} does not own guest {request.vmid}; ask its owner.")
        rollback = Rollback(self._context, self._store, self._keys, self._outcomes, id, request)

        async def work(held: Held) -> str:
            with self._context.locks.shown(request.vmid, held):
                async with guest.commits.closed(), guest.turn:  # nothing is taken, committed or let go of
                    return await rollback.run(held)

        operation = f"rollback to point {request.at}"
        return await self._locks.run(
            [request.vmid], operation, work, lambda why: _waiting(self._outcomes, id, str(why))
        )

    async def _unmount(self) -> None:
        """Let go of what was mounted for a while; what is in use still is tried again."""
        now, seen = self._context.host.now(), self._context.scanner
        for vmid in sorted({vmid for _, vmid in seen.anchors()}):
            scan = seen.known(vmid)
            found = copies(scan).values() if scan else ()
            for copy in [c for c in found if c.vmid == vmid and c.until is not None and c.until <= now]:
                try:
                    log.info(await self._unclone(copy.vmid, copy.name))
                except (Refused, VolumesError) as error:
                    log.warning("not unmounted yet", vmid=copy.vmid, name=copy.name, error=str(error))


def _waiting(outcomes: Outcomes, id: str, why: str) -> None:
    outcomes.say(id, RequestState.WAITING, why)
