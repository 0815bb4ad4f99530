"""The target's side of the agents' protocol: admits or refuses, receives, commits.

Guards invariants 3 and 5 at the receiver: every claim is checked at accept, the commit checks the mark on the storage
once more in its transaction, only datasets of the guest's own assignment are touched, and none that is not ours.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Protocol

import structlog
from holdfast.agent.mirrors import kept_by_mirror
from holdfast.agent.moving import Mover
from holdfast.agent.ports import Channel, CommitOrder, Host, ReceiveOrder, Refused, Volumes, VolumesError, WireError
from holdfast.agent.scanner import RECENT, SESSION, Scanner
from holdfast.agent.transfer.convert import inventory_message
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.planning.admission import Claim, admit, allowed_datasets
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.kept import Rules
from holdfast.coordinator.planning.observed import CONTENT_PROPERTIES, Scan, pool_of
from holdfast.coordinator.planning.rollback import return_move, unfinished_return
from holdfast.coordinator.planning.superseded import NOTHING, Superseded, superseded
from holdfast.proto import transfer_pb2 as wire
from pydantic import ValidationError

log = structlog.get_logger()


class Known(Protocol):
    """What the receiver asks of the agent's view of the keyspace."""

    @property
    def generation(self) -> int | None:
        """The keyspace's generation; None if it has never been read."""

    def owner(self, vmid: int) -> Owner | None:
        """The guest's owner as last read."""

    def assignment_here(self, vmid: int) -> Assignment | None:
        """How the guest is to be replicated to this node."""

    def rules_here(self, vmid: int, zone: tzinfo) -> Rules | None:
        """What of the guest's points is to stay on this node, if it is replicated here."""


@dataclass(slots=True)
class _Running:
    channel: Channel
    done: asyncio.Event


class Receiver:
    """Serves the agents of other nodes."""

    def __init__(
        self, me: str, known: Known, volumes: Volumes, scanner: Scanner, host: Host, on_commit: Callable[[], None]
    ) -> None:
        self._me = me
        self._known = known
        self._volumes = volumes
        self._scanner = scanner
        self._host = host
        self._on_commit = on_commit
        self._running: dict[str, _Running] = {}
        self._received: dict[int, float] = {}
        """VMID → when the last stream of the guest was whole, on the monotonic clock."""

    async def handle(self, channel: Channel) -> None:
        """Serve one connection; whatever goes wrong is told to the other side, and ends here."""
        try:
            request = await channel.request()
            try:
                _authenticate(request.claim, channel.node)
                await self._serve(request, channel)
            except Refused as refusal:
                log.info("refused", node=request.claim.node, vmid=request.claim.vmid, reason=refusal.reason)
                await channel.send(wire.Answer(refused=str(refusal), reason=refusal.reason))
            except VolumesError as error:
                log.warning("failed", node=request.claim.node, vmid=request.claim.vmid, error=str(error))
                await channel.send(wire.Answer(refused=str(error), reason="StorageFailed"))
        except (WireError, Refused) as error:
            log.info("connection lost", error=str(error))

    async def _serve(self, request: wire.Request, channel: Channel) -> None:
        claim = Claim(request.claim.node, request.claim.vmid, request.claim.epoch, request.claim.generation)
        what = request.WhichOneof("what")
        if what == "hello":
            await channel.send(wire.Answer())
            return
        scan = await self._scanner.look(claim.vmid, self._age(claim.vmid) if what == "inventory" else SESSION)
        self._admit(claim, scan)
        if what == "inventory":
            datasets = list(request.inventory.datasets)
            if self._running.keys() & {*datasets}:  # whoever asks sends nothing: these hang on a dead link
                for dataset in datasets:
                    await self._supersede(dataset)
                scan = await self._scanner.look(claim.vmid)
            scan = await self._finish_returns(claim, datasets, scan)
            found = inventory_message(scan, claim.vmid, datasets)
            await channel.send(wire.Answer(inventory=found))
        elif what == "send":
            await self._receive(claim, request.send, scan, channel)
        elif what == "commit":
            await self._commit(claim, request.commit, scan, channel)
        elif what in ("abort", "aside"):
            dataset = request.abort.dataset or request.aside.dataset
            if request.aside.back_to:
                await self._bring_back(claim, dataset, request.aside.back_to, scan)
            else:
                await self._clear(claim, dataset, scan, aside=what == "aside", guid=request.abort.guid)
            await channel.send(wire.Answer())
        else:
            raise Refused("UnknownRequest", f"{self._me} does not know this request; is its agent older?")

    def _age(self, vmid: int) -> float:
        """How old a look may be for an inventory: it must show what arrived last, of which the owner may not know."""
        return min(RECENT, self._host.monotonic() - self._received.get(vmid, float("-inf")))

    def _admit(self, claim: Claim, scan: Scan) -> None:
        owner, generation = self._known.owner(claim.vmid), self._known.generation
        refusal = admit(claim, self._me, owner, generation, scan.epoch_of(claim.vmid))
        if refusal is not None:
            raise Refused(refusal.reason, refusal.message)
        for dataset in sorted(allowed_datasets(self._known.assignment_here(claim.vmid))):
            if why := scan.failed.get(pool_of(dataset)):
                raise Refused("StorageFailed", f"{self._me} cannot look at what it has of the guest: {why}")
            if (volume := scan.volumes.get(dataset)) and volume.mirror is not None:
                raise kept_by_mirror(dataset)

    def _allow(self, claim: Claim, datasets: list[str], scan: Scan, partial: int = 0) -> None:
        """Only datasets that this guest's assignment names, and none that is somebody else's.

        What was half received of the snapshot with the GUID `partial`, and nothing else, needs no mark.
        """
        assigned = allowed_datasets(self._known.assignment_here(claim.vmid))
        for dataset in datasets:
            volume = scan.volumes.get(dataset)
            ours = volume is None or volume.replica_of == claim.vmid
            if not ours and not (partial and volume and volume.resume_guid == partial and not volume.snapshots):
                raise Refused(
                    "TargetOccupied",
                    f"{dataset} on {self._me} was not made by Holdfast for guest {claim.vmid}; it is left alone.",
                )
            if dataset not in assigned and (volume is None or self._known.generation is not None):
                raise Refused(
                    "NotAssigned",
                    f"no policy that {self._me} knows replicates guest {claim.vmid} to {dataset}.",
                )

    async def _receive(self, claim: Claim, ask: wire.SendRequest, scan: Scan, channel: Channel) -> None:
        self._allow(claim, [ask.dataset], scan)
        if ask.kind not in ("volume", "filesystem"):
            raise Refused("UnknownKind", f"{self._me} cannot receive a {ask.kind!r}; is its agent older?")
        await self._anchor(claim, pool_of(ask.dataset), scan)
        await self._supersede(ask.dataset)
        running = self._running[ask.dataset] = _Running(channel, asyncio.Event())
        try:
            await channel.send(wire.Answer())
            mark = f"{claim.vmid}/{ask.disk}"
            order = ReceiveOrder(
                ask.dataset,
                mark,
                ask.kind,
                resume=ask.resume,
                incremental=ask.base_guid != 0,
                snapshot=ask.snapshot,
                guid=ask.guid,
                base=ask.base_guid,
            )
            try:
                await self._volumes.receive(order, channel)
            except VolumesError as error:
                self._scanner.changed(claim.vmid)
                log.warning("receive failed", vmid=claim.vmid, disk=ask.disk, error=str(error))
                await channel.send(wire.Result(failed=f"{self._me}: {error}"))
            else:
                self._received[claim.vmid] = self._host.monotonic()
                if not order.incremental:  # a look in the midst of a first stream shows a dataset without its mark
                    self._scanner.changed(claim.vmid)
                log.info("received", vmid=claim.vmid, disk=ask.disk, snapshot=ask.snapshot)
                await channel.send(wire.Result(guid=ask.guid))
        finally:
            if self._running.get(ask.dataset) is running:
                del self._running[ask.dataset]
            running.done.set()

    async def _supersede(self, dataset: str) -> None:
        """A receive that hangs on a dead link must not block its successor: two never write one dataset."""
        while (before := self._running.get(dataset)) is not None:
            before.channel.abort()
            await before.done.wait()

    async def _anchor(self, claim: Claim, pool: str, scan: Scan) -> None:
        """The guest's anchor on this pool exists and bears the claim's epoch before anything changes under it."""
        anchor = scan.anchors.get((pool, claim.vmid))
        if anchor is None:
            await self._volumes.prepare(pool, claim.vmid)
        if anchor is None or anchor.epoch < claim.epoch:
            await self._volumes.raise_epoch(pool, claim.vmid, claim.epoch)
            self._scanner.changed(claim.vmid)

    async def _commit(self, claim: Claim, ask: wire.CommitRequest, scan: Scan, channel: Channel) -> None:
        try:
            point = RecoveryPoint.model_validate_json(ask.point)
        except ValidationError as error:
            raise Refused("BadPoint", f"the point's record cannot be read: {error}") from None
        self._allow(claim, [m.dataset for m in point.members], scan)
        for dataset, wanted in ask.properties.items():
            await self._set_properties(dataset, dict(wanted.local), scan)
        assignment = self._known.assignment_here(claim.vmid)  # as late as may be: a disk may have been put back
        rules = self._known.rules_here(claim.vmid, self._host.zone)
        goes = superseded(assignment, scan, point, rules) if assignment and rules else NOTHING
        pools = sorted({pool_of(m.dataset) for m in point.members})
        others = {anchor.pool for anchor in scan.anchors_of(claim.vmid)} - {*pools}
        at_once = goes if len(pools) == 1 and not others else NOTHING
        self._scanner.changed(claim.vmid)  # also where it is recorded on some of the pools only
        for pool in pools:
            await self._anchor(claim, pool, scan)
            order = CommitOrder(
                claim.vmid,
                pool,
                claim.epoch,
                point,
                ask.definition,
                at_once.destroy,
                at_once.forget,
                at_once.definitions,
            )
            await self._volumes.commit(order)
            scan = scan.with_point(pool, claim.vmid, point, ask.definition)
        gone = at_once is goes or await self._let_go(claim, goes, sorted({*pools, *others}))
        if gone and all(m.dataset in scan.volumes for m in point.members):
            self._scanner.amend(claim.vmid, scan.without(claim.vmid, {d.guid for d in goes.destroy}, goes.forget))
        log.info("committed", vmid=claim.vmid, point=str(point.id), destroyed=len(goes.destroy))
        await channel.send(wire.Answer())
        self._on_commit()
        for dataset in goes.aside:
            if dataset not in allowed_datasets(self._known.assignment_here(claim.vmid)):  # the disk may be back by now
                await self._set_aside(claim, dataset)

    async def _let_go(self, claim: Claim, goes: Superseded, pools: list[str]) -> bool:
        """On several pools a point is superseded only once its successor is recorded on all of them."""
        gone = True
        for pool in pools:
            doomed = [d for d in goes.destroy if pool_of(d.snapshot) == pool]
            try:
                await self._volumes.destroy(pool, claim.vmid, claim.epoch, doomed, goes.forget, goes.definitions)
            except (VolumesError, Refused) as error:  # it is tried again at the next commit
                log.warning("not let go", vmid=claim.vmid, pool=pool, error=str(error))
                gone = False
        return gone

    async def _set_properties(self, dataset: str, wanted: dict[str, str], scan: Scan) -> None:
        volume = scan.volumes.get(dataset)
        have = volume.properties if volume else {}
        differing = {k: v for k, v in wanted.items() if k in CONTENT_PROPERTIES and have.get(k) != v}
        await self._volumes.set_properties(dataset, differing)

    async def _clear(self, claim: Claim, dataset: str, scan: Scan, *, aside: bool, guid: int) -> None:
        self._allow(claim, [dataset], scan, partial=0 if aside else guid)
        if dataset not in scan.volumes:
            return
        await self._supersede(dataset)
        if aside:
            await self._set_aside(claim, dataset)
        else:
            await self._volumes.abort_partial(dataset)
        self._scanner.changed(claim.vmid)

    async def _bring_back(self, claim: Claim, dataset: str, guid: int, scan: Scan) -> None:
        """The owner was rolled back: so is its replica, and what came later is kept aside."""
        self._allow(claim, [dataset], scan)
        volume = scan.volumes.get(dataset)
        base = volume.snapshot(guid) if volume else None
        if volume is None or base is None or volume.newest is None:
            raise Refused("MemberMissing", f"{dataset} has no such snapshot any more; it is looked at again.")
        await self._supersede(dataset)
        move = return_move(dataset, claim.vmid, claim.epoch, base, volume.newest)
        await Mover(self._volumes, self._scanner, claim.vmid, claim.epoch).move([move])
        log.warning("brought back", vmid=claim.vmid, dataset=dataset, kept_as=move.aside)

    async def _finish_returns(self, claim: Claim, datasets: list[str], scan: Scan) -> Scan:
        """One that a crash has cut short: the owner must not take the replica for gone."""
        begun = [move for dataset in datasets if (move := unfinished_return(dataset, claim.vmid, scan))]
        if not begun:
            return scan
        self._allow(claim, [move.dataset for move in begun], scan)
        await Mover(self._volumes, self._scanner, claim.vmid, claim.epoch).move(begun)
        return await self._scanner.look(claim.vmid, 0)

    async def _set_aside(self, claim: Claim, dataset: str) -> None:
        name = await self._volumes.set_aside(dataset, claim.vmid, claim.epoch)
        self._scanner.changed(claim.vmid)
        log.warning("set aside", vmid=claim.vmid, dataset=dataset, kept_as=name)


def _authenticate(claim: wire.Claim, node: str | None) -> None:
    """A node speaks for itself alone. Raises Refused."""
    if node is not None and claim.node != node:
        raise Refused(
            "NotThatNode",
            f"the certificate is {node}'s, the request {claim.node}'s; see `node` in the agent's settings on {node}",
        )
