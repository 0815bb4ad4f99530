"""People who have a guest rolled back: they shut it down, ask, wait until it is settled, and start it again."""

from typing import Protocol

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.report import RequestReport, RequestState
from holdfast.coordinator.model.request import Request

from .cluster import KEYS, Cluster
from .points import complete

LOOK = 2.0
RUNS = 0.3
"""The part of those who forget to shut the guest down."""


class Watcher(Protocol):
    """What the people ask of the checks."""

    def rolls_back(self, vmid: int, point: RecoveryPoint) -> None: ...

    def rolled_back(self, vmid: int, point: RecoveryPoint, said: RequestReport) -> None: ...


class Person:
    """One request, from the first word to the guest's start."""

    def __init__(self, cluster: Cluster, checks: Watcher, vmid: int, amount: float) -> None:
        self._cluster = cluster
        self._checks = checks
        self._vmid = vmid
        self._amount = amount
        self._guest = cluster.guests[vmid]
        self._id = f"rollback-{vmid}-{int(cluster.world.now * 1000)}"
        self._node = ""

    def ask(self) -> None:
        """Once the guest has a point, and nobody has shut it down for another."""
        points = complete(self._guest.machine.storage, self._vmid)
        item = self._cluster.service.etcd.get(KEYS.owner(self._vmid))
        if self._guest.off or not points or item is None:
            return
        self._node = Owner.model_validate_json(item.value).node
        if self._node != self._guest.machine.name:  # here a guest does not move with its owner
            return
        point = points[int(self._amount * len(points)) % len(points)]
        if self._amount >= RUNS:
            self._guest.off = True
            self._guest.halt()
        self._cluster.world.tell("PERSON", "rollback", vmid=self._vmid, to=point.id, off=self._guest.off)
        self._checks.rolls_back(self._vmid, point)
        asked = self._cluster.world.wall(self._guest.machine)
        request = Request(action="rollback", vmid=self._vmid, asked=asked, node=self._node, at=str(point.id))
        self._cluster.put("requests", self._id, request.to_json())
        self._cluster.rollbacks.add(self._id)
        self._look(point)

    def _look(self, point: RecoveryPoint) -> None:
        item = self._cluster.service.etcd.get(KEYS.request_report(self._node, self._id))
        said = RequestReport.model_validate_json(item.value) if item else None
        if said is None or not said.settled:
            self._cluster.world.loop.after(LOOK, lambda: self._look(point))
            return
        self._cluster.world.tell("PERSON", "sees", vmid=self._vmid, state=said.state.value)
        self._cluster.rollbacks.discard(self._id)
        self._cluster.service.etcd.delete(KEYS.desired("requests", self._id))
        done = said.state is RequestState.DONE
        if done:
            counters = [self._guest.machine.storage.there(d).image.counter for d in self._guest.disks.values()]
            self._guest.forget_after(counters[-1])
        self._checks.rolled_back(self._vmid, point, said)
        if self._guest.off:
            self._guest.off = False
            if self._guest.machine.powered:
                self._guest.boot()
