"""One node's agent: follows the keyspace, keeps the guests that it owns replicated, receives those of others."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import structlog
from holdfast.agent.api import Api
from holdfast.agent.collector import Collector
from holdfast.agent.config import AgentSettings
from holdfast.agent.context import Context
from holdfast.agent.guest import GuestWorker
from holdfast.agent.locking import GuestLocks
from holdfast.agent.mqtt.announcer import Announcer
from holdfast.agent.mqtt.publisher import Publisher
from holdfast.agent.outcomes import Outcomes
from holdfast.agent.ports import Host, LockToken, Volumes, Wire
from holdfast.agent.report import Reporter
from holdfast.agent.requests import Requests
from holdfast.agent.saved import FILE, Saved, load
from holdfast.agent.scanner import Scanner
from holdfast.agent.slots import Slots
from holdfast.agent.transfer.receiver import Receiver
from holdfast.agent.transfer.sender import Sender
from holdfast.agent.trust import Trust
from holdfast.agent.view import View
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.cache import Cache, Change
from holdfast.coordinator.store.locks import Locks
from holdfast.coordinator.store.mark import mark_of
from holdfast.coordinator.store.port import Listing, Store

log = structlog.get_logger()

RESTART = 10.0
"""Seconds after which a guest's worker that failed in a way nobody foresaw is started again."""


class Agent:
    """Everything of one node but the ports, which are given; `api` is served by whoever runs the agent."""

    def __init__(
        self,
        settings: AgentSettings,
        store: Store,
        volumes: Volumes,
        wire: Wire,
        host: Host,
        credentials: Credentials | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self._settings = settings
        self._host = host
        self._wire = wire
        keys = settings.keyspace
        saved = load(host)
        self._view = View(keys, settings.node, saved.last_good)
        self._meta = keys.meta
        self._mark = saved.mark
        self.cache = Cache(store, keys.root, clock=host.monotonic, admit=self._admit)
        for prefix in (keys.desired_prefix, keys.owners_prefix, keys.meta):
            self.cache.subscribe(prefix, self._on_change)
        self._trust = Trust(credentials, host) if credentials else None
        if self._trust:
            self.cache.subscribe(keys.revoked, self._trust.on_change)
        scanner = Scanner(volumes, host)
        self._reporter = Reporter(settings.node, keys, store, self._view, scanner, host)
        self._troubles = [source.conditions for source in (credentials, publisher) if source]
        self._reporter.conditions = self._conditions
        if publisher:
            announcer = Announcer(settings.node, keys, self._view, publisher.outbox, host.now)
            self._reporter.announce = announcer.announce
        self._context = Context(
            me=settings.node,
            view=self._view,
            volumes=volumes,
            host=host,
            scanner=scanner,
            sender=Sender(volumes, wire, host),
            slots=Slots(settings.transfers),
            locks=GuestLocks(
                settings.node, self._view, Locks(store, keys, settings.node, host), keys, volumes, scanner
            ),
            report=self._reporter.changed,
        )
        self._receiver = Receiver(settings.node, self._view, volumes, scanner, host, self._reporter.changed)
        self.guests: dict[int, GuestWorker] = {}
        self._reporter.guests = lambda: self.guests
        outcomes = Outcomes(host, self._reporter.changed)
        self._reporter.requests = lambda: outcomes.known
        self._requests = Requests(self._context, store, keys, outcomes, self.guests)
        self._collector = Collector(self._context)
        self.api = Api(self._context, self.guests, credentials, self._staleness, self._conditions)

    def storages(self) -> Mapping[str, Storage]:
        """The storages of desired state in force."""
        return self._view.desired.storages

    def token(self, vmid: int) -> LockToken | None:
        """Of the lock under which this node changes a guest's volumes on shared storage; see GuestLocks."""
        return self._context.locks.token(vmid)

    def _staleness(self) -> float | None:
        return self.cache.staleness() if self.cache.synced.is_set() else None

    def _conditions(self, now: datetime) -> tuple[Condition, ...]:
        """What is wrong with the node itself."""
        return tuple(condition for trouble in self._troubles for condition in trouble(now))

    def _on_change(self, change: Change) -> None:
        if change.new is None:
            self._view.delete(change.key)
        else:
            self._view.put(change.key, change.new.value, change.new.create_revision)

    def _admit(self, listing: Listing) -> None:
        if self._mark:
            meta = next((item for item in listing.items if item.key == self._meta), None)
            self._mark.check(meta, listing.revision, FILE)

    async def run(self) -> None:
        """Until cancelled; whatever runs then is stopped and its children are reaped."""
        settings = self._settings
        async with TaskGroup() as group:
            group.create_task(self.cache.run())
            if self._trust:
                group.create_task(self._trust.run())
            group.create_task(self._wire.serve(settings.listen, settings.transfer_port, self._receiver.handle))
            self._host.notify("READY=1")
            await self.cache.synced.wait()
            log.info("ready", node=settings.node, guests=len(self._view.owned()))
            group.create_task(self._reporter.run())
            group.create_task(self._requests.run())
            group.create_task(self._collector.run())
            group.create_task(self._keep_last_good())
            await self._supervise(group)

    async def _supervise(self, group: asyncio.TaskGroup) -> None:
        """A worker for each guest that this node owns, under the epoch at which it does; none for others."""
        running: dict[int, tuple[Owner, asyncio.Task[None]]] = {}
        changed = self._view.subscribe()
        while True:
            changed.clear()
            owned = self._view.owned()
            for vmid, (owner, task) in list(running.items()):
                if task.done() or owned.get(vmid) != owner:
                    task.cancel()
                    await asyncio.wait((task,))  # an old epoch's work ends before the new one's begins
                    del running[vmid]
                    self.guests.pop(vmid, None)
            for vmid, owner in owned.items():
                if vmid not in running:
                    worker = GuestWorker(self._context, vmid, owner)
                    self.guests[vmid] = worker
                    running[vmid] = (owner, group.create_task(_contained(worker)))
            await changed.wait()

    async def _keep_last_good(self) -> None:
        """Desired state in force survives a restart, also while etcd holds a record that cannot be read.

        So does the mark of the keyspace that it is from.
        """
        changed = self._view.subscribe()
        while True:
            changed.clear()
            records = {path: value.decode() for path, value in self._view.last_good.items()}
            mark = mark_of(self.cache.get(self._meta), self.cache.revision)
            await self._host.save(FILE, Saved(desired=records, mark=mark or self._mark).to_json())
            await changed.wait()
            await asyncio.sleep(1.0)


async def _contained(worker: GuestWorker) -> None:
    """One guest's failure leaves the others running (invariant 7)."""
    while True:
        try:
            await worker.run()
        except Exception:
            log.exception("a guest's worker failed; it is started again", vmid=worker.vmid)
            await asyncio.sleep(RESTART)
        else:
            return
