"""Removes what is proven to be abandoned on this node, once it has been so for a while; the log has each proof."""

import asyncio

import structlog
from holdfast.agent.context import Context
from holdfast.agent.ports import Refused, VolumesError
from holdfast.coordinator.planning.abandoned import Abandoned, abandoned

log = structlog.get_logger()

LOOK = 600.0
"""Seconds between looks; a look of others that is as recent will do."""
PATIENCE = 3600.0
"""Seconds for which something must have been abandoned: a policy that is corrected finds it again."""


class Collector:
    """Of one node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: dict[tuple[str, str], float] = {}
        """(kind, name) → when it was first found so, on the monotonic clock."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self._collect(await found_here(self._context, LOOK))
            except (VolumesError, Refused) as error:
                log.warning("leftovers stay for now", error=str(error))

    async def _collect(self, found: list[Abandoned]) -> None:
        now = self._context.host.monotonic()
        self._since = {(a.kind, a.name): self._since.get((a.kind, a.name), now) for a in found if a.by_itself}
        for each in found:
            if each.by_itself and now - self._since[each.kind, each.name] >= PATIENCE:
                log.warning("leftover removed", kind=each.kind, name=each.name, vmid=each.vmid, proof=each.proof)
                await self._context.volumes.abort_partial(each.name)
                self._context.scanner.changed(each.vmid)


async def found_here(context: Context, age: float) -> list[Abandoned]:
    """What is abandoned on this node, seen at most `age` seconds ago. Raises VolumesError."""
    scan = await context.scanner.look(0, age)
    desired = context.view.desired
    vmids = {*desired.guests, *context.view.owned()}
    protections = {vmid: found for vmid in vmids if (found := context.view.protection(vmid)) is not None}
    owners = {vmid: owner for vmid in vmids if (owner := context.view.owner(vmid)) is not None}
    return abandoned(context.me, protections, owners, scan)
