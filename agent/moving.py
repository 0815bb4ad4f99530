"""Carries out what `planning.rollback` plans: on an owner that is rolled back, and on its targets after it."""

from collections.abc import Sequence

import structlog
from holdfast.agent.ports import Volumes, VolumesError
from holdfast.agent.scanner import Scanner
from holdfast.coordinator.planning.observed import Scan, pool_of
from holdfast.coordinator.planning.rollback import (
    CloneBack,
    Impossible,
    Move,
    Promote,
    PutAside,
    PutBack,
    RollBack,
    RollbackStep,
    plan_moves,
)

log = structlog.get_logger()


class Mover:
    """Moves one guest's datasets under one epoch. Between steps it asks whether it still may."""

    def __init__(self, volumes: Volumes, scanner: Scanner, vmid: int, epoch: int) -> None:
        self._volumes = volumes
        self._scanner = scanner
        self._vmid = vmid
        self._epoch = epoch

    async def check(self) -> None:
        """Raises Refused, or whatever else is to end it."""

    async def move(self, wanted: Sequence[Move]) -> None:
        """Until each dataset is what its snapshot is. Each round looks at what is there. VolumesError, Refused."""
        while True:
            scan = await self._scanner.look(self._vmid, 0)
            steps = plan_moves(wanted, scan)
            if isinstance(steps, Impossible):
                raise VolumesError(steps.message)
            if not steps:
                return
            kind = type(steps[0])
            for step in (s for s in steps if type(s) is kind):
                await self.check()
                self._scanner.changed(self._vmid)
                await self._carry_out(step, scan)
            self._scanner.changed(self._vmid)

    async def _carry_out(self, step: RollbackStep, scan: Scan) -> None:
        log.info("step", vmid=self._vmid, step=str(step))
        match step:
            case PutAside():
                await self._volumes.put_aside(step.dataset, step.aside, scan.volumes[step.dataset].kind)
            case CloneBack():
                aside = step.snapshot.partition("@")[0]
                await self._volumes.clone_back(step.snapshot, step.dataset, scan.volumes[aside].kind)
            case Promote():
                pool = pool_of(step.dataset)
                await self._volumes.promote(pool, self._vmid, self._epoch, step.dataset, step.snapshot, step.guid)
            case RollBack():
                await self._volumes.roll_back(step.aside, step.snapshot, step.guid, step.mark)
            case PutBack():
                await self._volumes.put_back(step.aside, step.dataset)
