"""The agent's local API: what is asked live and kept nowhere. Read-only; HTTP on a unix socket, and on TCP.

On TCP under mutual TLS where the node has a certificate: whoever belongs to the cluster may ask. The unix socket is
root's alone. `PATHS` is what `GET /openapi.json` describes.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import structlog
from aiohttp import web
from holdfast.agent.collector import found_here
from holdfast.agent.context import Context
from holdfast.agent.guest import GuestWorker
from holdfast.agent.openapi import Described, document
from holdfast.agent.ports import Refused, VolumesError, WireError
from holdfast.agent.rollback import preview
from holdfast.coordinator import __version__
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.identity.verify import Untrusted
from holdfast.coordinator.model.answers import (
    Answer,
    Foreign,
    GuestPlan,
    GuestSnapshots,
    Health,
    Leftover,
    Leftovers,
    Plan,
    Progress,
    Reach,
    RollbackPreview,
    Snapshots,
    Transfer,
)
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.planning.origins import origin, snapshot_names

RECENT_ENOUGH = 60.0
"""Seconds: what others have made is shown as of then, so that no look keeps who asks waiting."""
_REACH = 1.5
"""Seconds for a node; who asks waits for two."""

log = structlog.get_logger()

PATHS = (
    Described("/v1/health", "That the agent runs, and what is wrong with its node.", Health),
    Described(
        "/v1/reach",
        "The nodes whose agents it cannot reach, or that do not take it for who it is; it asks all of them.",
        Reach,
    ),
    Described("/v1/progress", "The streams that this node is sending.", Progress),
    Described("/v1/snapshots", "Snapshots of its guests' volumes that others made.", Snapshots, query=("vmid",)),
    Described("/v1/leftovers", "What lies here and is of no use to anybody any more.", Leftovers),
    Described(
        "/v1/rollback",
        "What a guest that it owns would lose by going back to a point.",
        RollbackPreview,
        query=("vmid", "epoch", "sequence"),
    ),
    Described("/v1/plan", "What it would do next for the guests that it owns.", Plan, query=("vmid",)),
)


class Api:
    """Answers `PATHS`."""

    def __init__(
        self,
        context: Context,
        guests: Mapping[int, GuestWorker],
        credentials: Credentials | None,
        staleness: Callable[[], float | None],
        conditions: Callable[[datetime], tuple[Condition, ...]],
    ) -> None:
        """`staleness`: seconds since etcd was last heard of; None before the keyspace has been read.

        `conditions`: what is wrong with the node itself.
        """
        self._context = context
        self._guests = guests
        self._credentials = credentials
        self._staleness = staleness
        self._conditions = conditions

    async def serve(self, address: str, port: int, socket: Path) -> None:
        """Until cancelled. A socket that cannot be made is said, and done without."""
        handlers = {
            "/v1/health": self._health,
            "/v1/reach": self._reach,
            "/v1/progress": self._progress,
            "/v1/snapshots": self._snapshots,
            "/v1/leftovers": self._leftovers,
            "/v1/plan": self._plan,
            "/v1/rollback": self._rollback,
        }
        application = web.Application(middlewares=[self._authenticated])
        application.add_routes([web.get(path, handler) for path, handler in handlers.items()])
        application.add_routes([web.get("/openapi.json", _describe)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            tls: ssl.SSLContext | None = self._credentials.server if self._credentials else None
            await web.TCPSite(runner, address, port, ssl_context=tls).start()
            await _listen(runner, socket)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _authenticated(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        if self._credentials and tls is not None:
            try:
                self._credentials.peer(tls.getpeercert(binary_form=True), frozenset(Role))
            except Untrusted as error:
                log.warning("refused", peer=request.remote, reason=error.reason, error=str(error))
                raise web.HTTPForbidden(text=str(error)) from None
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        now, stale = self._context.host.now(), self._staleness()
        return _answer(
            Health(
                node=self._context.me,
                version=__version__,
                now=now,
                synced=stale is not None,
                staleness=stale,
                conditions=self._conditions(now),
            )
        )

    async def _reach(self, _: web.Request) -> web.Response:
        nodes = {name: node for name, node in self._context.view.desired.nodes.items() if name != self._context.me}
        async with TaskGroup() as group:
            tried = {name: group.create_task(self._try(name, node)) for name, node in nodes.items()}
        return _answer(Reach(unreachable={name: why for name, task in tried.items() if (why := task.result())}))

    async def _try(self, name: str, node: Node) -> str | None:
        try:
            async with asyncio.timeout(_REACH):
                await self._context.sender.reach(node, name, self._context.me, self._context.view.generation or 1)
        except (WireError, Refused) as error:
            return str(error)
        except TimeoutError:
            return f"{node.address}:{node.transfer_port} does not answer within {_REACH:g} s"
        return None

    async def _progress(self, _: web.Request) -> web.Response:
        now = self._context.host.monotonic()
        transfers = []
        for transfer in self._context.sender.transfers:
            moved, seconds = transfer.channel.transferred(), now - transfer.started
            transfers.append(
                Transfer(
                    vmid=transfer.vmid,
                    disk=transfer.disk,
                    target=transfer.target,
                    bytes=moved,
                    total=transfer.total,
                    seconds=round(seconds, 3),
                    bytes_per_second=round(moved / seconds) if seconds > 0 else 0,
                )
            )
        return _answer(Progress(transfers=tuple(transfers)))

    async def _snapshots(self, request: web.Request) -> web.Response:
        found = []
        try:
            for vmid in sorted(self._chosen(request)):
                protection = self._context.view.protection(vmid)
                scan = await self._context.scanner.look(vmid, RECENT_ENOUGH)
                if protection is not None:
                    found.append(GuestSnapshots(vmid=vmid, foreign=tuple(_foreign(protection, scan))))
        except VolumesError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        return _answer(Snapshots(guests=tuple(found)))

    async def _leftovers(self, _: web.Request) -> web.Response:
        try:
            found = await found_here(self._context, RECENT_ENOUGH)
        except VolumesError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        return _answer(Leftovers(found=tuple(Leftover(**asdict(each)) for each in found)))

    def _chosen(self, request: web.Request) -> dict[int, GuestWorker]:
        asked = request.query.get("vmid")
        if asked is not None and not asked.isdecimal():
            raise web.HTTPBadRequest(text="vmid is a number")
        return {v: g for v, g in self._guests.items() if asked is None or v == int(asked)}

    async def _plan(self, request: web.Request) -> web.Response:
        chosen = self._chosen(request)
        try:
            return _answer(Plan(guests=tuple([await self._guest(v, g) for v, g in sorted(chosen.items())])))
        except VolumesError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None

    async def _rollback(self, request: web.Request) -> web.Response:
        try:
            vmid, epoch, sequence = (int(request.query.get(name, "0")) for name in ("vmid", "epoch", "sequence"))
        except ValueError:
            raise web.HTTPBadRequest(text="vmid, epoch and sequence are numbers") from None
        try:
            return _answer(await preview(self._context, self._guests, vmid, PointId(epoch, sequence)))
        except VolumesError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None

    async def _guest(self, vmid: int, worker: GuestWorker) -> GuestPlan:
        plan = await worker.plan()
        steps = [*([plan.step] if plan.step else []), *(s for t in worker.state.targets.values() for s in t.plan.steps)]
        found = [*plan.conditions, *plan.held_back, *(c for t in worker.state.targets.values() for c in t.conditions)]
        conditions = tuple(Condition(reason=c.reason, message=c.message) for c in found)
        return GuestPlan(vmid=vmid, steps=tuple(map(str, steps)), due=plan.due, conditions=conditions)


def _foreign(protection: Protection, scan: Scan) -> list[Foreign]:
    guest = protection.guest
    ours = {m.guid for p in scan.recorded_points(protection.vmid).values() for m in p.members}
    names = snapshot_names(guest.definition)
    return [
        Foreign(dataset=d.dataset, snapshot=s.name, origin=origin(s.name, names, guest.type), used=s.used)
        for d in protection.disks
        if (volume := scan.volumes.get(d.dataset))
        for s in volume.snapshots
        if s.guid not in ours
    ]


async def _listen(runner: web.AppRunner, socket: Path) -> None:
    """asyncio removes a socket that an earlier life has left; unix(7): who may not write it cannot connect."""
    try:
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await web.UnixSite(runner, str(socket)).start()
    except OSError as error:
        log.warning("the local API has no socket", path=str(socket), error=str(error))


def _answer(answer: Answer) -> web.Response:
    return web.Response(text=answer.model_dump_json(), content_type="application/json")


async def _describe(_: web.Request) -> web.Response:
    return web.json_response(document(PATHS))
