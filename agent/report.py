"""Writes what this agent has to say into `agents/<node>/…`: at once when a condition changes, else coalesced."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

import structlog
from holdfast.agent.guest import GuestWorker
from holdfast.agent.mirrors import mirror_reports
from holdfast.agent.points import point_report
from holdfast.agent.ports import Host, VolumesError
from holdfast.agent.scanner import Scanner
from holdfast.agent.view import View
from holdfast.coordinator import __version__
from holdfast.coordinator.model.condition import Condition, keep_since
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.report import (
    AgentReport,
    CopyReport,
    GuestReport,
    ReplicaReport,
    RequestReport,
    TargetReport,
)
from holdfast.coordinator.planning.copies import copies, where
from holdfast.coordinator.planning.kept import kept
from holdfast.coordinator.store.port import MAX_OPERATIONS, Delete, Put, Store, StoreError

log = structlog.get_logger()

AT_MOST = 30.0
"""Seconds between writes of what only moves on (DESIGN §5)."""
AT_LEAST = 1.0
RETRY = 5.0
SEEN = timedelta(seconds=30)


class Reporter:
    """Compares what is to be said with what was written last, and writes the difference."""

    def __init__(self, me: str, keys: Keyspace, store: Store, view: View, scanner: Scanner, host: Host) -> None:
        self._me = me
        self._keys = keys
        self._replica_prefix = keys.replica_prefix(me)
        self._store = store
        self._view = view
        self._scanner = scanner
        self._host = host
        self._wake = asyncio.Event()
        self._written: dict[str, bytes] = {}
        self._since: dict[str, tuple[Condition, ...]] = {}
        self._started = host.now()
        self.guests: Callable[[], Mapping[int, GuestWorker]] = dict
        self.requests: Callable[[], Mapping[str, RequestReport]] = dict
        self.conditions: Callable[[datetime], tuple[Condition, ...]] = lambda now: ()
        """What is wrong with the node itself."""
        self.announce: Callable[[Mapping[str, bytes], Mapping[str, bytes]], None] = lambda before, said: None
        """Takes what etcd has from us, and what is so now; it must not wait."""

    def changed(self) -> None:
        """There may be something new to say."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. etcd's absence delays reports, nothing else."""
        known = False
        while True:
            self._wake.clear()
            try:
                if not known:
                    await self._load()
                    known = True
                await self._write()
            except StoreError as error:
                log.warning("reports are not written", error=str(error))
                known = False
                self.announce(self._written, self._say())
                await asyncio.sleep(RETRY)
                continue
            await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_MOST):
                await self._wake.wait()
        await asyncio.sleep(self._spacing())

    def _spacing(self) -> float:
        """A tenth of the shortest RPO: the reader's lag is never off by more."""
        shortest = min((p.rpo for p in self._view.desired.policies.values() if p.rpo), default=AT_MOST)
        return max(AT_LEAST, min(AT_MOST, shortest / 10))

    async def _load(self) -> None:
        """What an earlier life of this agent wrote: it is compared, and what no longer holds is deleted."""
        listing = await self._store.list(self._keys.agent_prefix(self._me))
        self._written = {item.key: item.value for item in listing.items}
        if not self._scanner.has_looked:  # the owners that would ask about their replicas may be down
            try:
                await self._scanner.look(0)
            except VolumesError as error:
                log.warning("the storage was not looked at; what was reported of replicas stays", error=str(error))

    async def _write(self) -> None:
        wanted = self._say()
        self.announce(self._written, wanted)
        changes: list[Put | Delete] = [
            Put(key, value) for key, value in sorted(wanted.items()) if self._written.get(key) != value
        ]
        changes += [Delete(key) for key in sorted(self._written.keys() - wanted.keys())]
        for start in range(0, len(changes), MAX_OPERATIONS):
            await self._store.transact((), changes[start : start + MAX_OPERATIONS])
        self._written = wanted

    def _say(self) -> dict[str, bytes]:
        now = self._host.now()
        said: dict[str, bytes] = {}
        for vmid, worker in self.guests().items():
            key = self._keys.guest_report(self._me, vmid)
            said[key] = self._guest(key, worker, now).to_json()
        if not self._scanner.has_looked or self._scanner.failed:  # what was not seen is not therefore gone
            said |= {key: value for key, value in self._written.items() if key.startswith(self._replica_prefix)}
        for vmid, points in self._replicas().items():
            key = self._keys.replica_report(self._me, vmid)
            said[key] = self._replica(vmid, points).to_json()
        for id, became in self.requests().items():
            said[self._keys.request_report(self._me, id)] = became.to_json()
        said[self._keys.agent(self._me)] = self._self(now).to_json()
        return said

    def _guest(self, key: str, worker: GuestWorker, now: datetime) -> GuestReport:
        state = worker.state
        conditions = [*state.conditions, *(c for t in state.targets.values() for c in t.conditions)]
        self._since[key] = keep_since(self._since.get(key, ()), tuple(conditions), now)
        protection = self._view.protection(worker.vmid)
        policies = {a.node: a.policy for a in protection.assignments} if protection else {}
        targets = tuple(
            TargetReport(
                node=name,
                policy=policies.get(name, ""),
                last=point_report(target.last) if target.last else None,
                unchanged_at=state.unchanged_at if target.waiting else None,
            )
            for name, target in sorted(state.targets.items())
        )
        scan = self._scanner.known(worker.vmid)
        return GuestReport(
            epoch=state.epoch,
            targets=targets,
            points=state.points,
            mirrors=tuple(mirror_reports(protection.disks, scan)) if protection and scan else (),
            conditions=self._since[key],
        )

    def _replicas(self) -> dict[int, list[RecoveryPoint]]:
        mine = self._view.owned().keys()
        vmids = {vmid for _, vmid in self._scanner.anchors()} - mine
        return {
            vmid: points
            for vmid in sorted(vmids)
            if (scan := self._scanner.known(vmid)) and (points := scan.complete_points(vmid))
        }

    def _replica(self, vmid: int, points: list[RecoveryPoint]) -> ReplicaReport:
        rules = self._view.rules_here(vmid, self._host.zone)
        why = kept(points, rules) if rules else {}
        return ReplicaReport(points=tuple(point_report(p, why.get(p.id, ())) for p in points))

    def _copies(self) -> Iterator[CopyReport]:
        """Copies of points, as each guest's storage was last seen."""
        for vmid in sorted({vmid for _, vmid in self._scanner.anchors()}):
            scan = self._scanner.known(vmid)
            for copy in copies(scan).values() if scan else ():
                if copy.vmid == vmid and scan is not None:
                    places = where(copy, scan.volumes)
                    yield CopyReport(vmid=vmid, name=copy.name, point=copy.point, disks=places, until=copy.until)

    def _self(self, now: datetime) -> AgentReport:
        """`seen` moves in steps, so that it alone causes no write more often than that."""
        key = self._keys.agent(self._me)
        failed = [Condition(reason="StorageFailed", message=why) for _, why in sorted(self._scanner.failed.items())]
        self._since[key] = keep_since(self._since.get(key, ()), (*self.conditions(now), *failed), now)
        seen = datetime.fromtimestamp(now.timestamp() // SEEN.total_seconds() * SEEN.total_seconds(), now.tzinfo)
        return AgentReport(
            version=__version__,
            started=self._started,
            seen=max(seen, self._started),
            conditions=self._since[key],
            copies=tuple(self._copies()),
            problems=self._view.desired.problems,
        )
