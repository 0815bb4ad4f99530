"""The Volumes port on RBD: all storages of type rbd that this node reaches."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from holdfast.agent.ports import (
    Channel,
    CommitOrder,
    CopyOrder,
    LockToken,
    ReceiveOrder,
    Refused,
    SendOrder,
    TakeOrder,
    VolumesError,
)
from holdfast.agent.storage.child import move, stream
from holdfast.agent.storage.rbd import anchor, copies, identity, incoming, mounting, names, points, rollback, trash
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import LIMIT, LIMIT_OF_ALL, Cluster, Pool
from holdfast.agent.storage.rbd.images import Images
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.point import Consistency, Member, PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Anchor, Scan, Volume, pool_of

log = structlog.get_logger()

Seen = tuple[dict[str, Volume], dict[tuple[str, int], Anchor]]

IMPATIENT = 1.0
"""Seconds to wait for a storage that failed last time: guests on other storages wait for the same look."""
PATIENT = 3.0
"""Seconds to wait for one that did not, or this many times what the last look took."""


class RbdVolumes:
    """`access` tells the storages that there are now; it is asked before each look."""

    def __init__(
        self,
        me: str,
        now: Callable[[], datetime],
        access: Callable[[], Mapping[str, Access]],
        grace: float = trash.GRACE,
        token: Callable[[int], LockToken | None] = lambda vmid: None,
    ) -> None:
        """`grace`: seconds for which an image that is removed stays in the trash. `token`: of the guest's lock.

        It is asked before each change of a guest's own volumes; None where that takes no lock, as with a replica's.
        """
        self._token = token
        self._me = me
        self._grace = grace
        self._now = now
        self._access = access
        self._clusters: dict[str, Cluster] = {}
        self._images: dict[str, Images] = {}
        self._looking: dict[str, asyncio.Future[Seen]] = {}
        """Looks that have not ended, of storages that fail."""
        self._failing: dict[str, str] = {}
        """Storage → why the last look failed."""
        self._purges: dict[str, tuple[float, asyncio.Future[None]]] = {}
        """Storage → when its trash was looked at last, and that look."""
        self._took: dict[str, float] = {}
        """Storage → seconds that its last look took."""

    def close(self) -> None:
        """Let go of all connections."""
        for cluster in self._clusters.values():
            cluster.close()

    async def scan(self) -> Scan:
        """Look at every storage. One that fails is told in `failed`, and lets the others be seen."""
        at = self._now()
        self._follow()
        async with TaskGroup() as group:
            looks = {storeid: group.create_task(self._look(storeid)) for storeid in self._clusters}
        volumes: dict[str, Volume] = {}
        anchors: dict[tuple[str, int], Anchor] = {}
        failed: dict[str, str] = {}
        for storeid, look in looks.items():
            seen = look.result()
            if isinstance(seen, str):
                failed[names.PREFIX + storeid] = seen
            else:
                volumes |= seen[0]
                anchors |= seen[1]
        return Scan(at, volumes, anchors, failed)

    def _follow(self) -> None:
        """A connection for each storage as it is defined now."""
        wanted = self._access()
        for storeid in [s for s, c in self._clusters.items() if wanted.get(s) != c.access]:
            self._clusters.pop(storeid).close()
            self._looking.pop(storeid, None)
            self._failing.pop(storeid, None)
            self._took.pop(storeid, None)
        for storeid, access in wanted.items():
            if storeid not in self._clusters:
                self._clusters[storeid] = self._connect(access)
                self._images[storeid] = Images(storeid, self._me)

    def _connect(self, access: Access) -> Cluster:
        return Cluster(access)

    async def _look(self, storeid: str) -> Seen | str:
        """What is on a storage, or why that is not known. One that failed last time is not waited for as long."""
        before = self._looking.pop(storeid, None)
        if before is not None and not await _ends(before, IMPATIENT):
            self._looking[storeid] = before
            return self._failing.setdefault(storeid, f"{self._clusters[storeid].access} has not answered for long.")
        if before is not None and not before.cancelled():
            if before.exception() is None:
                self._failing.pop(storeid, None)  # it answers again; what that look has found is out of date by now
            else:
                self._failing[storeid] = str(before.exception())
        patience = min(LIMIT, PATIENT * max(1.0, self._took.get(storeid, LIMIT)))
        if storeid in self._failing:
            patience = IMPATIENT
        look = self._clusters[storeid].start("look", partial(self._see, storeid))
        look.add_done_callback(partial(self._ended, storeid, asyncio.get_running_loop().time()))
        if await _ends(look, patience):
            return self._settle(storeid, look)
        self._looking[storeid] = look
        return self._failing.setdefault(storeid, f"{self._clusters[storeid].access} was not seen in {patience:.0f} s.")

    def _ended(self, storeid: str, began: float, look: asyncio.Future[Seen]) -> None:
        if not look.cancelled() and look.exception() is None:
            self._took[storeid] = asyncio.get_running_loop().time() - began

    def _settle(self, storeid: str, look: asyncio.Future[Seen]) -> Seen | str:
        try:
            seen = look.result()
        except VolumesError as error:
            self._failing[storeid] = str(error)
            return str(error)
        self._failing.pop(storeid, None)
        self._purge(storeid)
        return seen

    def _purge(self, storeid: str) -> None:
        """Once in a while see what in the trash is over. Nobody waits for it."""
        now = asyncio.get_running_loop().time()
        before = self._purges.get(storeid)
        if before is None or (now - before[0] >= trash.PURGE_EVERY and before[1].done()):
            purge = self._clusters[storeid].start("purge", lambda p: trash.purge(p, self._me, self._now()))
            purge.add_done_callback(_log_failure)
            self._purges[storeid] = (now, purge)

    def _see(self, storeid: str, pool: Pool) -> Seen:
        key = names.PREFIX + storeid
        mine = [vmid for vmid, node in anchor.index(pool).items() if node == self._me]
        marks = {vmid: found for vmid in mine if (found := anchor.read(pool, vmid)) and found.node == self._me}
        anchors = {(key, vmid): found.anchor(key, vmid) for vmid, found in marks.items()}
        return copies.with_devices(pool, self._images[storeid].look(pool)), anchors

    def _cluster(self, pool: str) -> Cluster:
        storeid = names.storeid_of(pool)
        cluster = self._clusters.get(storeid)
        if cluster is None:
            raise VolumesError(f"storage {storeid} is not defined for this node any more.")
        return cluster

    async def prepare(self, pool: str, vmid: int) -> None:
        """Make the guest's anchor, and what removing an image takes."""

        def make(pool: Pool) -> None:
            trash.prepare(pool)
            anchor.make(pool, vmid, self._me)

        await self._cluster(pool).call("mark a guest", make)

    async def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        """Mark the epoch on the anchor; a mark that is later already is refused."""
        await self._change(pool, vmid, epoch, {}, token=self._token(vmid))

    async def _change(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        values: Mapping[str, str],
        gone: Sequence[str] = (),
        token: LockToken | None = None,
    ) -> None:
        await self._cluster(pool).call(
            f"mark guest {vmid}", lambda p: anchor.change(p, vmid, self._me, epoch, values, gone, token)
        )

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        """Snapshot all images side by side, then record: see `points` on what their instants have in common."""
        cluster, name = self._cluster(order.pool), order.point.snapshot
        members = order.point.members
        datasets = [m.dataset for m in members]
        before = partial(
            points.announce,
            vmid=order.vmid,
            me=self._me,
            epoch=order.epoch,
            name=name,
            datasets=datasets,
            token=self._token(order.vmid),
        )
        await cluster.call(f"begin point {order.point.id}", before)
        same = [partial(points.same_as, dataset=d, before=order.reuse.get(d), me=self._me) for d in datasets]
        found = dict(zip(datasets, await self._each(cluster, same), strict=True))
        changed = [d for d in datasets if found[d] is None]
        new = await self._each(cluster, [partial(points.snapshot, dataset=d, name=name) for d in changed])
        found |= dict(zip(changed, new, strict=True))
        made = [found[d] for d in datasets]
        taken = [
            m.model_copy(update={"snapshot": t.snapshot, "guid": t.guid}) for m, t in zip(members, made, strict=True)
        ]
        consistency = order.point.consistency
        if consistency is Consistency.ATOMIC and len(members) > 1:  # what else was asked for is the caller's to know
            looked = await self._each(cluster, [partial(points.look, dataset=d, me=self._me) for d in datasets])
            one_instant = all(v.unchanged_since(m.guid) for v, m in zip(looked, taken, strict=True))
            consistency = Consistency.ATOMIC if one_instant else Consistency.NONE
        point = order.point.model_copy(update={"members": tuple(taken), "consistency": consistency})
        record = partial(
            points.record,
            vmid=order.vmid,
            me=self._me,
            epoch=order.epoch,
            point=point,
            definition=order.definition,
            token=self._token(order.vmid),
            announced=True,
        )
        try:
            await cluster.call(f"record point {point.id}", record)
        except Refused:
            ours = [m for m, t in zip(taken, made, strict=True) if t.made]
            await cluster.call("remove what was snapshotted", lambda p: points.drop(p, ours))
            raise
        return point

    @staticmethod
    async def _each(cluster: Cluster, work: Sequence[Callable[[Pool], Any]]) -> list[Any]:
        """Side by side, each in a thread. All have ended before the first failure is raised."""
        calls = [cluster.call("snapshot", each) for each in work]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    async def hold(self, snapshots: Sequence[str]) -> None:
        """Protect snapshots: nobody can remove one then, by hand or from Proxmox."""
        await self._on_snapshots(snapshots, points.protect)

    async def release(self, snapshots: Sequence[str]) -> None:
        """Undo `hold`. One that somebody has cloned stays protected, and that is an error."""
        await self._on_snapshots(snapshots, points.unprotect)

    async def _on_snapshots(self, snapshots: Sequence[str], act: Callable[[Pool, Any, str], None]) -> None:
        for pool in sorted({pool_of(name) for name in snapshots}):
            here = [name for name in snapshots if pool_of(name) == pool]
            await self._cluster(pool).call("protect snapshots", partial(points.each_snapshot, here, act))

    async def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        """Mark what a target committed. RBD has no bookmarks: the snapshots stay."""
        await self._change(pool, vmid, epoch, {anchor.SENT + target: str(point)})

    async def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        """Destroy, then forget. Epoch and token are checked before the one and with the other."""
        await self._change(pool, vmid, epoch, {}, token=self._token(vmid))
        await self._cluster(pool).call("remove snapshots", lambda p: points.destroy(p, doomed), LIMIT_OF_ALL)
        gone = [anchor.POINT + str(id) for id in forget] + [anchor.DEFINITION + digest for digest, _ in definitions]
        if gone:
            await self._change(pool, vmid, epoch, {}, gone, self._token(vmid))

    async def drop_bookmark(self, bookmark: str) -> None:
        """Nothing to do: RBD has none."""

    async def send(self, order: SendOrder, channel: Channel) -> None:
        """Give the channel's socket to rbd export-diff."""
        dataset = order.source.partition("@")[0]
        cluster = self._cluster(pool_of(dataset))
        image, snapshot = names.split_snapshot(order.source)
        base = order.base[1:] if order.base else None
        if order.resume_token is not None:
            base = await self._base(cluster, dataset, order.resume_token)
        argv = ["rbd", "export-diff", *cluster.access.argv, "--no-progress", "--image", image, "--snap", snapshot]
        if base is not None:
            argv += ["--from-snap", names.split_snapshot(f"{dataset}@{base}")[1]]
        await self._export([*argv, "--path", "-"], channel)

    async def _export(self, argv: Sequence[str], channel: Channel) -> None:
        async with stream(channel).sending() as descriptor:
            await move(argv, channel, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor)

    async def _base(self, cluster: Cluster, dataset: str, token: str) -> str | None:
        guid = identity.read_token(token).base
        if guid is None:
            return None
        found = (await cluster.call("look", partial(points.look, dataset=dataset, me=self._me))).snapshot(guid)
        if found is None:
            raise VolumesError(f"{dataset} has lost the snapshot that a cut stream began at; it is looked for again.")
        return str(found.name)

    async def receive(self, order: ReceiveOrder, channel: Channel) -> None:
        """Give the channel's socket to rbd import-diff, which makes the snapshot when it has everything."""
        cluster = self._cluster(pool_of(order.dataset))
        begin = partial(incoming.begin, order=order, me=self._me, data_pool=cluster.access.data_pool)
        await cluster.call(f"begin to receive {order.dataset}", begin, LIMIT_OF_ALL)
        image = names.image_of(order.dataset)
        argv = ["rbd", "import-diff", *cluster.access.argv, "--no-progress", "--image", image, "--path", "-"]
        await self._import(argv, channel)

    async def _import(self, argv: Sequence[str], channel: Channel) -> None:
        async with stream(channel).receiving() as descriptor:
            await move(argv, channel, stdin=descriptor, stdout=asyncio.subprocess.DEVNULL)

    async def abort_partial(self, dataset: str) -> None:
        """Roll the head back to the newest snapshot; an image that has none goes to the trash."""
        undo = partial(incoming.abort, dataset=dataset, me=self._me, grace=self._grace)
        await self._cluster(pool_of(dataset)).call(f"undo the cut stream of {dataset}", undo, LIMIT_OF_ALL)

    async def set_aside(self, dataset: str, vmid: int, epoch: int) -> str:
        """Rename within the pool, to a name that Proxmox takes for no disk."""
        return await self._cluster(pool_of(dataset)).call(
            f"set {dataset} aside", lambda p: incoming.set_aside(p, dataset, self._me, vmid, epoch)
        )

    async def put_aside(self, dataset: str, aside: str, kind: str) -> None:
        """Rename a head that nobody has open."""
        await self._cluster(pool_of(dataset)).call(
            f"put {dataset} aside", lambda p: rollback.put_aside(p, dataset, aside)
        )

    async def clone_back(self, snapshot: str, dataset: str, kind: str) -> None:
        """Never planned: images are rolled back as they are."""
        raise NotImplementedError

    async def promote(self, pool: str, vmid: int, epoch: int, dataset: str, snapshot: str, guid: int) -> None:
        """Never planned: RBD has none."""
        raise NotImplementedError

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        """Addresses of the watchers."""
        found: list[str] = []
        for pool in sorted({pool_of(dataset) for dataset in datasets}):
            here = [dataset for dataset in datasets if pool_of(dataset) == pool]
            found += await self._cluster(pool).call("look for clients", partial(rollback.clients, datasets=here))
        return tuple(sorted(set(found)))

    async def kernel_names(self, datasets: Sequence[str]) -> Mapping[str, str]:
        """The names of a storage say nothing to the kernel, and two clusters may have pools of one name."""
        found: dict[str, str] = {}
        for pool in sorted({pool_of(dataset) for dataset in datasets}):
            cluster = self._cluster(pool)
            fsid = await cluster.call("ask which cluster it is", lambda p: p.fsid)
            where = (fsid, cluster.access.pool, cluster.access.namespace)
            found |= {d: names.of_kernel(*where, names.image_of(d)) for d in datasets if pool_of(d) == pool}
        return found

    async def roll_back(self, aside: str, snapshot: str, guid: int, mark: str) -> None:
        """rbd snap rollback, which takes as many operations as the image has objects."""
        act = partial(rollback.roll_back, aside=aside, snapshot=snapshot, guid=guid, mark=mark)
        await self._cluster(pool_of(aside)).call(f"roll {aside} back", act, LIMIT_OF_ALL)

    async def put_back(self, aside: str, dataset: str) -> None:
        """Rename it back."""
        await self._cluster(pool_of(aside)).call(f"put {aside} back", lambda p: rollback.put_back(p, aside, dataset))

    async def make_copy(self, order: CopyOrder) -> None:
        """Clone a snapshot."""
        if order.folder is not None:
            mounting.check()
        cluster = self._cluster(pool_of(order.dataset))
        make = partial(copies.make, order=order, me=self._me, data_pool=cluster.access.data_pool)
        await cluster.call(f"clone {order.snapshot}", make)

    async def show_copy(self, order: CopyOrder) -> None:
        """Map it here, and mount a container's."""
        cluster = self._cluster(pool_of(order.dataset))
        name = await cluster.call("look", lambda p: copies.kernel_name(p, order.dataset, self._me))
        await mounting.show(cluster.access, name, order.folder if order.kind == "filesystem" else None)

    async def flatten_copy(self, dataset: str) -> None:
        """rbd flatten, which takes as many operations as the image has objects."""
        await self._cluster(pool_of(dataset)).call(
            f"flatten {dataset}", lambda p: copies.flatten(p, dataset, self._me), LIMIT_OF_ALL
        )

    async def drop_copy(self, dataset: str) -> None:
        """Remove a clone, once nothing shows it here."""
        cluster = self._cluster(pool_of(dataset))
        await mounting.hide(await cluster.call("look", lambda p: copies.kernel_name(p, dataset, self._me)))
        await cluster.call(f"remove {dataset}", lambda p: copies.drop(p, dataset, self._me), LIMIT_OF_ALL)

    async def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        """Images have none that belong to their content."""

    async def commit(self, order: CommitOrder) -> None:
        """Check that the members are here, record the point, then let go of what it supersedes."""
        cluster = self._cluster(order.pool)
        for member in order.point.members:
            if pool_of(member.dataset) == order.pool:
                here = await cluster.call("look", partial(points.look, dataset=member.dataset, me=self._me))
                _check_member(member, here)
        record = partial(
            points.record,
            vmid=order.vmid,
            me=self._me,
            epoch=order.epoch,
            point=order.point,
            definition=order.definition,
            token=self._token(order.vmid),
        )
        await cluster.call(f"record point {order.point.id}", record)
        if order.destroy or order.forget:
            await self.destroy(
                order.pool, order.vmid, order.epoch, order.destroy, order.forget, order.forget_definitions
            )


def _log_failure(purge: asyncio.Future[None]) -> None:
    if not purge.cancelled() and (error := purge.exception()) is not None:
        log.warning("the trash was not purged", error=str(error))


async def _ends(look: asyncio.Future[Seen], seconds: float) -> bool:
    """Wait so long. Cancelled, it leaves the look to itself: the thread cannot be stopped."""
    look.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may ask for it any more
    return bool((await asyncio.wait((look,), timeout=seconds))[0])


def _check_member(member: Member, here: Volume) -> None:
    found = here.snapshot(member.guid)
    if found is None or found.name != member.snapshot:
        raise Refused("MemberMissing", f"{member.full_name} is not there as it was sent; the point is brought again.")
