"""The Volumes port of a node: hands each call to the back end of its pool, and joins what they see.

Which storages of Ceph there are comes from desired state; ZFS's pools are those that the node has imported.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from holdfast.agent.ports import (
    Channel,
    CommitOrder,
    CopyOrder,
    LockToken,
    ReceiveOrder,
    SendOrder,
    TakeOrder,
    Volumes,
    VolumesError,
)
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import TIMEOUT
from holdfast.agent.storage.rbd.trash import GRACE
from holdfast.agent.storage.rbd.volumes import RbdVolumes
from holdfast.agent.storage.zfs.volumes import ZfsVolumes
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Scan, pool_of


class NodeVolumes:
    """All storage of one node that Holdfast knows to handle."""

    def __init__(
        self,
        me: str,
        now: Callable[[], datetime],
        keys: Path,
        conf: Path,
        timeout: float = TIMEOUT,
        grace: float = GRACE,
    ) -> None:
        """`keys`: where the keyrings of Ceph storages are, by STOREID.keyring; `conf`: the node's ceph.conf.

        Ceph has `timeout` seconds to answer; what is removed from it stays in its trash for `grace` seconds.
        """
        self.storages: Callable[[], Mapping[str, Storage]] = dict
        """The storages of desired state."""
        self.token: Callable[[int], LockToken | None] = lambda vmid: None
        """Of the lock under which a guest's volumes on shared storage are changed here (agent/locking.py)."""
        self._me = me
        self._now = now
        self._keys, self._conf, self._timeout = keys, conf, timeout
        self._zfs = ZfsVolumes(now)
        self._rbd = RbdVolumes(me, now, self._access, grace, lambda vmid: self.token(vmid))

    def close(self) -> None:
        """Let go of connections."""
        self._rbd.close()

    def _here(self, type: str) -> dict[str, Storage]:
        return {id: s for id, s in self.storages().items() if s.type == type and s.reaches(self._me)}

    def _access(self) -> dict[str, Access]:
        found = self._here("rbd").items()
        return {id: Access.of(id, storage, self._keys, self._conf, self._timeout) for id, storage in found}

    def _of(self, name: str) -> Volumes:
        """The back end of a pool or dataset."""
        return self._rbd if name.startswith(names.PREFIX) else self._zfs

    async def scan(self) -> Scan:
        """Look at everything. A pool that fails is told in `failed` where there is another that may not."""
        if not self._here("rbd"):
            return await self._zfs.scan()
        found = await self._rbd.scan()
        zfs = {pool_of(s.dataset(id, "x")) for id, s in self._here("zfspool").items()}
        if not zfs and shutil.which("zfs") is None:
            return found
        try:
            also = await self._zfs.scan()
        except VolumesError as error:
            also = Scan(found.at, failed=dict.fromkeys(zfs, str(error)))
        return Scan(
            min(found.at, also.at),
            {**also.volumes, **found.volumes},
            {**also.anchors, **found.anchors},
            {**also.failed, **found.failed},
            {**also.space, **found.space},
        )

    async def prepare(self, pool: str, vmid: int) -> None:
        """As the port says."""
        await self._of(pool).prepare(pool, vmid)

    async def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        """As the port says."""
        await self._of(pool).raise_epoch(pool, vmid, epoch)

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        """As the port says."""
        return await self._of(order.pool).take(order)

    async def hold(self, snapshots: Sequence[str]) -> None:
        """As the port says."""
        for back_end, names_ in self._split(snapshots):
            await back_end.hold(names_)

    async def release(self, snapshots: Sequence[str]) -> None:
        """As the port says."""
        for back_end, names_ in self._split(snapshots):
            await back_end.release(names_)

    def _split(self, snapshots: Sequence[str]) -> list[tuple[Volumes, list[str]]]:
        parts = [(each, [s for s in snapshots if self._of(s) is each]) for each in (self._zfs, self._rbd)]
        return [(each, found) for each, found in parts if found]

    async def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        """As the port says."""
        await self._of(pool).record_sent(pool, vmid, epoch, target, point, bookmarks)

    async def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        """As the port says."""
        await self._of(pool).destroy(pool, vmid, epoch, doomed, forget, definitions)

    async def drop_bookmark(self, bookmark: str) -> None:
        """As the port says."""
        await self._of(bookmark).drop_bookmark(bookmark)

    async def send(self, order: SendOrder, channel: Channel) -> None:
        """As the port says."""
        await self._of(order.source).send(order, channel)

    async def receive(self, order: ReceiveOrder, channel: Channel) -> None:
        """As the port says."""
        await self._of(order.dataset).receive(order, channel)

    async def abort_partial(self, dataset: str) -> None:
        """As the port says."""
        await self._of(dataset).abort_partial(dataset)

    async def set_aside(self, dataset: str, vmid: int, epoch: int) -> str:
        """As the port says."""
        return await self._of(dataset).set_aside(dataset, vmid, epoch)

    async def put_aside(self, dataset: str, aside: str, kind: str) -> None:
        """As the port says."""
        await self._of(dataset).put_aside(dataset, aside, kind)

    async def clone_back(self, snapshot: str, dataset: str, kind: str) -> None:
        """As the port says."""
        await self._of(dataset).clone_back(snapshot, dataset, kind)

    async def promote(self, pool: str, vmid: int, epoch: int, dataset: str, snapshot: str, guid: int) -> None:
        """As the port says."""
        await self._of(dataset).promote(pool, vmid, epoch, dataset, snapshot, guid)

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        """As the port says."""
        return tuple([who for back_end, names_ in self._split(datasets) for who in await back_end.clients(names_)])

    async def kernel_names(self, datasets: Sequence[str]) -> Mapping[str, str]:
        """As the port says."""
        found: dict[str, str] = {}
        for back_end, names_ in self._split(datasets):
            found |= await back_end.kernel_names(names_)
        return found

    async def roll_back(self, aside: str, snapshot: str, guid: int, mark: str) -> None:
        """As the port says."""
        await self._of(aside).roll_back(aside, snapshot, guid, mark)

    async def put_back(self, aside: str, dataset: str) -> None:
        """As the port says."""
        await self._of(dataset).put_back(aside, dataset)

    async def make_copy(self, order: CopyOrder) -> None:
        """As the port says."""
        await self._of(order.snapshot).make_copy(order)

    async def show_copy(self, order: CopyOrder) -> None:
        """As the port says."""
        await self._of(order.snapshot).show_copy(order)

    async def flatten_copy(self, dataset: str) -> None:
        """As the port says."""
        await self._of(dataset).flatten_copy(dataset)

    async def drop_copy(self, dataset: str) -> None:
        """As the port says."""
        await self._of(dataset).drop_copy(dataset)

    async def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        """As the port says."""
        await self._of(dataset).set_properties(dataset, properties)

    async def commit(self, order: CommitOrder) -> None:
        """As the port says."""
        await self._of(order.pool).commit(order)
