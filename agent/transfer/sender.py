"""The owner's side of the agents' protocol: asks a target what it has, sends, commits."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from holdfast.agent.ports import Channel, Host, Refused, SendOrder, Volumes, VolumesError, Wire, WireError
from holdfast.agent.transfer.convert import at_target, inventory
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.planning.admission import Claim
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.observed import Volume
from holdfast.coordinator.planning.protection import Inventory
from holdfast.coordinator.planning.steps import SendDisk
from holdfast.proto import transfer_pb2 as wire

log = structlog.get_logger()

LAST_WORDS = 5.0
"""Seconds to wait for the receiver's reason after a stream broke."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A stream under way. `total` is an estimate in bytes, None where there is none."""

    vmid: int
    disk: str
    target: str
    total: int | None
    started: float
    """On the monotonic clock."""
    channel: Channel


class Sender:
    """Speaks to the agents of other nodes on behalf of guests that this node owns."""

    def __init__(self, volumes: Volumes, connections: Wire, host: Host) -> None:
        self._volumes = volumes
        self._wire = connections
        self._host = host
        self.transfers: set[Transfer] = set()
        """Streams under way, for whoever asks about progress."""

    async def reach(self, node: Node, name: str, me: str, generation: int) -> None:
        """Connect to a node, and have it say that it takes us for who we are. Raises WireError, or Refused.

        By TLS 1.3 alone one does not know: the other side looks at our certificate after our side of the handshake.
        """
        await self._ask(name, node, _request(Claim(me, 0, 0, generation), hello=wire.HelloRequest()))

    async def inventory(self, node: Node, claim: Claim, assignment: Assignment) -> Inventory:
        """Ask what the target holds of the guest."""
        datasets = [disk.target_dataset for disk in assignment.disks]
        answer = await self._ask(
            assignment.node, node, _request(claim, inventory=wire.InventoryRequest(datasets=datasets))
        )
        return inventory(answer.inventory)

    async def abort_partial(self, node: Node, claim: Claim, assignment: Assignment, dataset: str, guid: int) -> None:
        """Have the target drop a half-received stream, which was bringing the snapshot of this GUID."""
        request = _request(claim, abort=wire.AbortRequest(dataset=dataset, guid=guid))
        await self._ask(assignment.node, node, request)

    async def set_aside(self, node: Node, claim: Claim, assignment: Assignment, dataset: str) -> None:
        """Have the target rename a replica that cannot be gone on with."""
        await self._ask(assignment.node, node, _request(claim, aside=wire.AsideRequest(dataset=dataset)))

    async def bring_back(self, node: Node, claim: Claim, assignment: Assignment, dataset: str, guid: int) -> None:
        """Have the target bring a replica back to its snapshot of this GUID, and keep the rest aside."""
        request = _request(claim, aside=wire.AsideRequest(dataset=dataset, back_to=guid))
        await self._ask(assignment.node, node, request)

    async def commit(
        self,
        node: Node,
        claim: Claim,
        assignment: Assignment,
        point: RecoveryPoint,
        definition: str,
        volumes: Mapping[str, Volume],
    ) -> None:
        """Have the target check and record a point."""
        targets = {disk.dataset: disk.target_dataset for disk in assignment.disks}
        properties = {
            targets[m.dataset]: wire.Properties(local=volumes[m.dataset].properties)
            for m in point.members
            if volumes[m.dataset].kind == "filesystem"
        }
        record = at_target(point, assignment).to_json()
        await self._ask(
            assignment.node,
            node,
            _request(claim, commit=wire.CommitRequest(point=record, definition=definition, properties=properties)),
        )

    async def send(self, node: Node, claim: Claim, assignment: Assignment, step: SendDisk, volume: Volume) -> None:
        """Send one disk to a snapshot. Raises Refused, WireError or VolumesError."""
        ask = wire.SendRequest(
            disk=step.disk.disk,
            dataset=step.disk.target_dataset,
            snapshot=step.to,
            guid=step.to_guid,
            base_guid=_base_guid(volume, step.base),
            resume=step.resume_token is not None,
            kind=volume.kind,
        )
        channel = await self._wire.connect(assignment.node, node.address, node.transfer_port, assignment.bandwidth)
        transfer = Transfer(
            step.vmid, step.disk.disk, step.target, _estimate(volume, step), self._host.monotonic(), channel
        )
        self.transfers.add(transfer)
        try:
            await channel.send(_request(claim, send=ask))
            _accepted(await channel.answer())
            await self._stream(SendOrder(step.source, step.base, step.resume_token, step.raw), channel)
        finally:
            self.transfers.discard(transfer)
            log.info(
                "sent",
                vmid=step.vmid,
                disk=step.disk.disk,
                target=step.target,
                base=step.base,
                resumed=step.resume_token is not None,
                bytes=channel.transferred(),
                changed=transfer.total,
            )
            await channel.close()

    async def _stream(self, order: SendOrder, channel: Channel) -> None:
        try:
            await self._volumes.send(order, channel)
        except VolumesError as error:
            # The receiver often knows better why its end closed.
            channel.finish_sending()
            try:
                async with asyncio.timeout(LAST_WORDS):
                    result = await channel.result()
            except (WireError, TimeoutError):
                raise VolumesError(
                    f"the stream broke off; what arrived is kept, the rest follows when the target answers ({error})"
                ) from None
            raise VolumesError(result.failed or str(error)) from None
        result = await channel.result()
        if result.failed:
            raise VolumesError(result.failed)

    async def _ask(self, name: str, node: Node, request: wire.Request) -> wire.Answer:
        channel = await self._wire.connect(name, node.address, node.transfer_port)
        try:
            await channel.send(request)
            return _accepted(await channel.answer())
        finally:
            await channel.close()


def _request(
    claim: Claim,
    *,
    inventory: wire.InventoryRequest | None = None,
    send: wire.SendRequest | None = None,
    commit: wire.CommitRequest | None = None,
    abort: wire.AbortRequest | None = None,
    aside: wire.AsideRequest | None = None,
    hello: wire.HelloRequest | None = None,
) -> wire.Request:
    who = wire.Claim(node=claim.node, vmid=claim.vmid, epoch=claim.epoch, generation=claim.generation)
    return wire.Request(claim=who, inventory=inventory, send=send, commit=commit, abort=abort, aside=aside, hello=hello)


def _accepted(answer: wire.Answer) -> wire.Answer:
    if answer.refused:
        raise Refused(answer.reason or "Refused", answer.refused)
    return answer


def _base_guid(volume: Volume, base: str | None) -> int:
    if base is None:
        return 0
    named = [*volume.snapshots] if base.startswith("@") else [*volume.bookmarks]
    return next((each.guid for each in named if each.name == base[1:]), 0)


def _estimate(volume: Volume, step: SendDisk) -> int | None:
    """Bytes, from what zfs list said of the snapshots in between: no process of its own."""
    if step.resume_token is not None:
        return None
    if step.base is None:
        return volume.referenced
    found = False
    total = 0
    for snapshot in volume.snapshots:
        if found:
            total += snapshot.written
        found = found or snapshot.name == step.base[1:]
        if snapshot.guid == step.to_guid:
            return total if found else None
    return None
