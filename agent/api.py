"""What the command line asks an agent live: progress, and what it would do next. Read-only."""

import asyncio
from collections.abc import Mapping

from aiohttp import web
from holdfast.agent.context import Context
from holdfast.agent.guest import GuestWorker
from holdfast.agent.ports import VolumesError


class Api:
    """HTTP on the node's API port; paths as in `routes`."""

    def __init__(self, context: Context, guests: Mapping[int, GuestWorker]) -> None:
        self._context = context
        self._guests = guests

    async def serve(self, address: str, port: int) -> None:
        """Until cancelled."""
        application = web.Application()
        application.add_routes([web.get("/v1/progress", self._progress), web.get("/v1/plan", self._plan)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _progress(self, _: web.Request) -> web.Response:
        now = self._context.host.monotonic()
        transfers = []
        for transfer in self._context.sender.transfers:
            moved, seconds = transfer.channel.transferred(), now - transfer.started
            transfers.append(
                {
                    "vmid": transfer.vmid,
                    "disk": transfer.disk,
                    "target": transfer.target,
                    "bytes": moved,
                    "total": transfer.total,
                    "seconds": round(seconds, 3),
                    "bytes_per_second": round(moved / seconds) if seconds > 0 else 0,
                }
            )
        return web.json_response({"transfers": transfers})

    async def _plan(self, request: web.Request) -> web.Response:
        asked = request.query.get("vmid")
        if asked is not None and not asked.isdecimal():
            raise web.HTTPBadRequest(text="vmid is a number")
        chosen = {v: g for v, g in self._guests.items() if asked is None or v == int(asked)}
        try:
            return web.json_response({"guests": [await self._guest(v, g) for v, g in sorted(chosen.items())]})
        except VolumesError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None

    async def _guest(self, vmid: int, worker: GuestWorker) -> dict[str, object]:
        plan = await worker.plan()
        steps = [*([plan.step] if plan.step else []), *(s for t in worker.state.targets.values() for s in t.plan.steps)]
        conditions = [*plan.conditions, *(c for t in worker.state.targets.values() for c in t.conditions)]
        return {
            "vmid": vmid,
            "steps": [str(step) for step in steps],
            "due": plan.due.isoformat() if plan.due else None,
            "conditions": [{"reason": c.reason, "message": c.message} for c in conditions],
        }
