"""The Volumes port on OpenZFS."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from holdfast.agent.ports import (
    Channel,
    CommitOrder,
    CopyOrder,
    ReceiveOrder,
    Refused,
    SendOrder,
    TakeOrder,
    VolumesError,
)
from holdfast.agent.storage.child import stream
from holdfast.agent.storage.zfs import copies, definition, names, programs, scan, streams
from holdfast.agent.storage.zfs.batch import Batch
from holdfast.agent.storage.zfs.command import run
from holdfast.agent.storage.zfs.programs import counted, signed
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.names import check_dataset
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Scan, pool_of


class ZfsVolumes:
    """All pools that are imported on this node."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._programs: dict[tuple[str, str], Batch[list[str], str]] = {}
        self._holds = Batch(self._on_snapshots("hold"))
        self._creating = asyncio.Lock()
        """`zfs create -p` fails if a parent appears meanwhile: one at a time."""
        self._releases = Batch(self._on_snapshots("release"))

    async def scan(self) -> Scan:
        """Look at everything: two processes."""
        at = self._now()
        try:
            async with TaskGroup() as group:
                listed = group.create_task(run(*scan.LIST))
                local = group.create_task(run(*scan.GET))
        except ExceptionGroup as failed:  # callers expect a VolumesError, as from any other command
            raise failed.exceptions[0] from None
        return scan.read(at, listed.result(), local.result())

    async def prepare(self, pool: str, vmid: int) -> None:
        """Make the guest's anchor: never mounted, and no volume of Proxmox's by its name."""
        await self._create_closed(names.anchor(pool, vmid))

    async def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        """Mark the epoch on the anchor; a mark that is later already is refused."""
        anchor = names.anchor(pool, vmid)
        await self._program(pool, "sent", [anchor, str(epoch), names.EPOCH, str(epoch), "0"])

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        """Snapshot and record in one transaction group."""
        members = []
        for member in order.point.members:
            # dump_json with the snapshot and GUID left out: the program appends what was really taken
            head = member.model_dump_json(exclude={"snapshot", "guid"})[:-1] + ","
            reuse = order.reuse.get(member.dataset)
            members.append(
                [check_dataset(member.dataset), reuse[0] if reuse else "", signed(reuse[1]) if reuse else "", head]
            )
        args = [names.anchor(order.pool, order.vmid), str(order.epoch), order.point.snapshot]
        args += [f"{names.POINT}{order.point.id}", _record_head(order.point), *counted(members)]
        args += counted(definition.split(order.point.definition, order.definition).items())
        return RecoveryPoint.model_validate_json(await self._program(order.pool, "take", args))

    async def hold(self, snapshots: Sequence[str]) -> None:
        """Hold snapshots under our tag; one that is held already is as good."""
        if snapshots:
            await self._holds.do([names.check_snapshot(name) for name in snapshots])

    async def release(self, snapshots: Sequence[str]) -> None:
        """Release our tag; one that does not bear it is as good."""
        if snapshots:
            await self._releases.do([names.check_snapshot(name) for name in snapshots])

    async def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        """Mark and bookmark in one transaction. A target's name goes into a property's name, which is lower case."""
        anchor = names.anchor(pool, vmid)
        key = f"{names.SENT}{target.lower()}"
        await self._program(pool, "sent", [anchor, str(epoch), key, f"{point} {target}", *counted(bookmarks)])

    async def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        """Destroy and forget in one transaction."""
        args = [names.anchor(pool, vmid), str(epoch), *counted(_doomed(doomed)), *counted(_keys(forget, definitions))]
        await self._program(pool, "destroy", args)

    async def drop_bookmark(self, bookmark: str) -> None:
        """Destroy a bookmark of ours (channel programs cannot)."""
        await run("destroy", names.check_snapshot(bookmark))

    async def send(self, order: SendOrder, channel: Channel) -> None:
        """Give the channel's socket to zfs send."""
        await streams.send(order, stream(channel))

    async def receive(self, order: ReceiveOrder, channel: Channel) -> None:
        """Give the channel's socket to zfs recv; the parent is made if it is missing."""
        if not order.resume and not order.incremental:
            parent = order.dataset.rpartition("/")[0]
            if "/" in parent:
                async with self._creating:
                    await run("create", "-p", check_dataset(parent))
        await streams.receive(order, stream(channel))

    async def abort_partial(self, dataset: str) -> None:
        """recv -A: what is left is the replica as its newest snapshot has it, or nothing."""
        await run("recv", "-A", check_dataset(dataset))

    async def set_aside(self, dataset: str, vmid: int, epoch: int) -> str:
        """Rename under `<pool>/holdfast/aside/`, to the first free name."""
        taken = (await self.scan()).volumes
        number = 1
        while (name := names.aside(check_dataset(dataset), vmid, epoch, number)) in taken:
            number += 1
        await self._create_closed(name.rpartition("/")[0])
        await run("rename", dataset, name)
        return name

    async def put_aside(self, dataset: str, aside: str, kind: str) -> None:
        """As `copies.put_aside`, below a parent that is closed."""
        await self._create_closed(aside.rpartition("/")[0])
        await copies.put_aside(dataset, aside, kind)

    async def clone_back(self, snapshot: str, dataset: str, kind: str) -> None:
        """As `copies.clone_back`."""
        await copies.clone_back(snapshot, dataset, kind)

    async def promote(self, pool: str, vmid: int, epoch: int, dataset: str, snapshot: str, guid: int) -> None:
        """By a program that checks epoch and GUID."""
        args = [names.anchor(pool, vmid), str(epoch), check_dataset(dataset), names.check_snapshot(snapshot)]
        await self._program(pool, "promote", [*args, signed(guid)])

    async def kernel_names(self, datasets: Sequence[str]) -> Mapping[str, str]:
        """ZFS is not RBD."""
        return {}

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        """A pool is one node's, whose kernel knows."""
        return ()

    async def roll_back(self, aside: str, snapshot: str, guid: int, mark: str) -> None:
        """Never planned: zfs rollback would destroy what came later."""
        raise NotImplementedError

    async def put_back(self, aside: str, dataset: str) -> None:
        """Never planned: a clone has the name already."""
        raise NotImplementedError

    async def make_copy(self, order: CopyOrder) -> None:
        """As `copies.make`, below a parent that is closed."""
        await self._create_closed(order.dataset.rpartition("/")[0])
        await copies.make(order)

    async def show_copy(self, order: CopyOrder) -> None:
        """As `copies.show`."""
        await copies.show(order)

    async def flatten_copy(self, dataset: str) -> None:
        """Never planned: a clone of ZFS always needs its snapshot."""
        raise NotImplementedError

    async def drop_copy(self, dataset: str) -> None:
        """zfs destroy: of this one, which has no snapshots, and only where copies are."""
        if not names.is_copy(check_dataset(dataset)):
            raise Refused("NotACopy", f"{dataset} is not a copy of a point; it is left alone.")
        await run("destroy", dataset, mounts=True)

    async def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        """zfs set, all in one command."""
        if properties:
            await run("set", *(f"{k}={v}" for k, v in properties.items()), check_dataset(dataset))

    async def commit(self, order: CommitOrder) -> None:
        """Check, record and let go in one transaction."""
        record = order.point.to_json().decode()
        here = [m for m in order.point.members if pool_of(m.dataset) == order.pool]  # a program sees one pool
        members = [(m.full_name, signed(m.guid)) for m in here]
        args = [names.anchor(order.pool, order.vmid), str(order.epoch), f"{names.POINT}{order.point.id}", record]
        args += [*counted(members), *counted(_doomed(order.destroy))]
        args += counted(_keys(order.forget, order.forget_definitions))
        args += counted(definition.split(order.point.definition, order.definition).items())
        await self._program(order.pool, "commit", args)

    async def _create_closed(self, dataset: str) -> None:
        """A filesystem and its parents."""
        closed = ("-o", "canmount=off", "-o", "mountpoint=none")
        async with self._creating:
            # The root first: what -p makes on the way ignores -o (zfs-create(8)) and would be mounted; it inherits.
            await run("create", "-p", *closed, names.root(dataset.partition("/")[0]))
            await run("create", "-p", *closed, check_dataset(dataset))

    async def _program(self, pool: str, program: str, args: list[str]) -> str:
        batch = self._programs.get((pool, program))
        if batch is None:

            async def carry_out(orders: Sequence[list[str]]) -> Sequence[str | Exception]:
                return await programs.call(pool, program, orders)

            batch = self._programs[pool, program] = Batch(carry_out)
        return await batch.do(args)

    @staticmethod
    def _on_snapshots(
        verb: str,
    ) -> Callable[[Sequence[list[str]]], Awaitable[Sequence[Exception | None]]]:
        async def carry_out(orders: Sequence[list[str]]) -> Sequence[Exception | None]:
            """All in one process; if that fails, each order by itself, so that one bad name fails alone."""
            every = sorted({name for order in orders for name in order})
            try:
                await run(verb, names.HOLD, *every)
            except VolumesError as error:
                if len(every) == 1:
                    return [None if _already(error) else error] * len(orders)
                return [await _each(verb, order) for order in orders]
            return [None] * len(orders)

        return carry_out


async def _each(verb: str, snapshots: Sequence[str]) -> Exception | None:
    worst: Exception | None = None
    for name in snapshots:
        try:
            await run(verb, names.HOLD, name)
        except VolumesError as error:
            if not _already(error):
                worst = error
    return worst


def _already(error: VolumesError) -> bool:
    """Held already, or released already: as good. A snapshot that has gone is missed by whoever needs it."""
    return any(words in str(error) for words in ("tag already exists", "no such tag", "dataset does not exist"))


def _record_head(point: RecoveryPoint) -> str:
    return point.model_dump_json(exclude={"members"}, exclude_defaults=True)[:-1] + ',"members":['


def _doomed(doomed: Sequence[Doomed]) -> list[tuple[str, str]]:
    return [(names.check_snapshot(d.snapshot), signed(d.guid)) for d in doomed]


def _keys(points: Sequence[PointId], definitions: Sequence[tuple[str, str]]) -> list[tuple[str]]:
    """The properties that records of points, and definitions, are kept in."""
    pieces = [key for digest, text in definitions for key in definition.split(digest, text)]
    return [(f"{names.POINT}{point}",) for point in points] + [(key,) for key in pieces]
