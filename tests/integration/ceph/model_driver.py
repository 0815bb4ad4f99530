"""Operations on the storage of two nodes that share one Ceph, and what is seen after each: for a real Ceph and a model.

Node alpha has a guest's two images on storage `home`; node beta keeps its replicas on storage `away`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from holdfast.agent.ports import CommitOrder, CopyOrder, ReceiveOrder, Refused, SendOrder, TakeOrder, VolumesError
from holdfast.agent.storage.rbd import trash
from holdfast.agent.storage.rbd.cluster import Pool, number_of
from holdfast.agent.storage.rbd.volumes import RbdVolumes
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.point import Consistency, Member, PointId, RecoveryPoint
from holdfast.coordinator.planning import copies
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Anchor, Scan, Snapshot, Volume
from holdfast.coordinator.planning.rollback import aside_name

VMID = 101
MIB = 1 << 20
SIZE = 8 * MIB
POOLS = {"alpha": "rbd:home", "beta": "rbd:away"}


def image(disk: int) -> str:
    return f"vm-{VMID}-disk-{disk}"


class NodeStorages(NodeVolumes):
    """Of a node: `home` and `away`."""

    _rbd: RbdVolumes

    def keep(self, seconds: float) -> None:
        """What goes to the trash from now on stays there for so long."""
        self._rbd._grace = seconds

    async def purge(self, pool: str, me: str, now: datetime) -> None:
        await self._rbd._cluster(pool).call("purge", partial(trash.purge, me=me, now=now))

    async def trashed(self, pool: str) -> list[str]:
        def look(pool: Pool) -> list[str]:
            return sorted(entry["name"] for entry in pool.rbd.RBD().trash_list(pool.io))

        return await self._rbd._cluster(pool).call("look", look)


class Place(Protocol):
    """A Ceph: what people do there, and streams between the nodes."""

    nodes: dict[str, NodeStorages]

    def write(self, dataset: str) -> None:
        """Somebody writes something that was never there before. VolumesError if there is no such image."""

    def snapshot(self, dataset: str, name: str) -> None:
        """Somebody makes a snapshot. VolumesError."""

    def destroy(self, dataset: str, name: str) -> None:
        """Somebody removes a snapshot. VolumesError."""

    def roll_back(self, dataset: str, name: str) -> None:
        """Somebody rolls back to a snapshot, and says so as docs/rbd.md has it. VolumesError."""

    def resize(self, dataset: str) -> None:
        """Somebody makes an image larger. VolumesError."""

    def clone(self, dataset: str, snapshot: str, name: str) -> None:
        """Somebody clones a snapshot in its pool. VolumesError."""

    def flatten(self, dataset: str) -> None:
        """Somebody makes a clone one no more. VolumesError."""

    def content(self, dataset: str, snapshot: str, guid: int) -> object:
        """What tells a snapshot's content from any other."""

    async def move(self, order: SendOrder, receive: ReceiveOrder, cut: str) -> None:
        """A stream from alpha to beta; raises what became of its receipt."""


def _known(snapshot: str) -> str:
    """Ceph gives a removed snapshot that has clones a name of its own."""
    dataset, _, name = snapshot.partition("@")
    return snapshot if name.startswith(("holdfast-", "mine")) else f"{dataset}@removed"


class Run:
    """GUIDs and contents are told by the order in which they were first seen."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._numbers: dict[object, int] = {}
        self._seen: dict[str, Scan] = {}

    async def begin(self) -> None:
        """The first look, which connects."""
        for node in self._place.nodes:
            await self._look(node)

    async def do(self, operation: Sequence[Any]) -> Any:
        name, *args = operation
        try:
            await getattr(self, f"_{name}")(*args)
            outcome: Any = "ok"
        except VolumesError as error:
            outcome = ["failed", number_of(error.__cause__) if error.__cause__ else None]
        except Refused as refusal:
            outcome = ["refused", refusal.reason]
        return [outcome, {node: await self._look(node) for node in self._place.nodes}]

    async def _look(self, node: str) -> Any:
        scan = self._seen[node] = await self._place.nodes[node].scan()
        volumes = {name: self._show(scan.volumes[name]) for name in sorted(scan.volumes)}
        anchors = {str(key): self._marks(scan.anchors[key]) for key in sorted(scan.anchors)}
        return [volumes, anchors, await self._place.nodes[node].trashed(POOLS[node])]

    def _number(self, thing: object) -> int:
        return self._numbers.setdefault(thing, len(self._numbers) + 1)

    def _show(self, volume: Volume) -> Any:
        def content(of: Snapshot) -> int:
            return self._number(self._place.content(volume.dataset, of.name, of.guid))

        return {
            "snapshots": [[s.name, self._number(s.guid), s.holds, content(s)] for s in volume.snapshots],
            "size": volume.size,
            "unchanged": [volume.unchanged_since(s.guid) for s in volume.snapshots],
            "written": volume.written > 0 if volume.snapshots else None,
            "partial": [self._number(guid) if guid else None for guid in (volume.resume_guid, volume.resume_base)],
            "marks": sorted(volume.marks.items()),
            "origin": None if volume.origin is None else _known(volume.origin),
        }

    def _marks(self, anchor: Anchor) -> Any:
        points = {str(p.id): [p.consistency.value, [self._number(m.guid) for m in p.members]] for p in anchor.points}
        sent = {target: str(point) for target, point in sorted(anchor.sent.items())}
        return [anchor.epoch, points, sent, sorted(anchor.definitions)]

    def _guid(self, node: str, dataset: str, snapshot: str) -> int:
        volume = self._seen[node].volumes.get(dataset)
        return next((s.guid for s in volume.snapshots if s.name == snapshot), 7) if volume else 7

    def _point(self, node: str, sequence: int, disks: Sequence[int], consistency: Consistency) -> RecoveryPoint:
        members = []
        for disk in disks:
            dataset, snapshot = f"{POOLS[node]}/{image(disk)}", f"holdfast-1-{sequence}"
            guid = self._guid(node, dataset, snapshot)
            member = Member(
                disk=f"scsi{disk}",
                volume=f"store:{image(disk)}",
                dataset=dataset,
                snapshot=snapshot,
                guid=guid,
                size=SIZE,
            )
            members.append(member)
        return RecoveryPoint(
            epoch=1,
            sequence=sequence,
            instant=datetime.now(UTC),
            consistency=consistency,
            definition=f"d{sequence % 2}",
            disks=tuple(m.disk for m in members),
            members=tuple(members),
        )

    # --- the port

    async def _prepare(self, node: str) -> None:
        await self._place.nodes[node].prepare(POOLS[node], VMID)

    async def _raise_epoch(self, node: str, epoch: int) -> None:
        await self._place.nodes[node].raise_epoch(POOLS[node], VMID, epoch)

    async def _take(self, epoch: int, sequence: int, disks: Sequence[int], reuse: int) -> None:
        wanted = self._point("alpha", sequence, disks, Consistency.ATOMIC)
        again = {m.dataset: f"holdfast-1-{reuse}" for m in wanted.members}
        before = {d: (name, self._guid("alpha", d, name)) for d, name in again.items()}
        order = TakeOrder(VMID, "rbd:home", epoch, wanted, before, f"text {sequence % 2}")
        await self._place.nodes["alpha"].take(order)

    async def _hold(self, node: str, disk: int, sequence: int) -> None:
        await self._place.nodes[node].hold([f"{POOLS[node]}/{image(disk)}@holdfast-1-{sequence}"])

    async def _release(self, node: str, disk: int, sequence: int) -> None:
        await self._place.nodes[node].release([f"{POOLS[node]}/{image(disk)}@holdfast-1-{sequence}"])

    async def _record_sent(self, epoch: int, sequence: int) -> None:
        await self._place.nodes["alpha"].record_sent("rbd:home", VMID, epoch, "beta", PointId(1, sequence), ())

    async def _destroy(self, node: str, epoch: int, sequence: int, wrong: bool) -> None:
        datasets = [f"{POOLS[node]}/{image(disk)}" for disk in range(2)]
        name = f"holdfast-1-{sequence}"
        doomed = [Doomed(f"{d}@{name}", 7 if wrong else self._guid(node, d, name)) for d in datasets]
        await self._place.nodes[node].destroy(POOLS[node], VMID, epoch, doomed, [PointId(1, sequence)], [])

    async def _commit(self, node: str, epoch: int, sequence: int, superseded: int) -> None:
        point = self._point(node, sequence, range(2), Consistency.PAUSED)
        name = f"holdfast-1-{superseded}"
        datasets = [f"{POOLS[node]}/{image(disk)}" for disk in range(2)]
        doomed = tuple(Doomed(f"{d}@{name}", self._guid(node, d, name)) for d in datasets)
        order = CommitOrder(VMID, POOLS[node], epoch, point, "text", doomed, (PointId(1, superseded),))
        await self._place.nodes[node].commit(order)

    async def _abort(self, disk: int, grace: float = 0.0) -> None:
        self._place.nodes["beta"].keep(grace)
        await self._place.nodes["beta"].abort_partial(f"rbd:away/{image(disk)}")

    async def _purge(self, node: str) -> None:
        """As after a day, for whoever goes by this node's clock."""
        await self._place.nodes[node].purge(POOLS[node], node, datetime.now(UTC) + timedelta(days=1))

    async def _rollback(self, disk: int, sequence: int, steps: int) -> None:
        """As the agent does, with the guest off; some of the steps."""
        volumes, dataset, name = self._place.nodes["alpha"], f"{POOLS['alpha']}/{image(disk)}", f"holdfast-1-{sequence}"
        aside = aside_name(dataset, VMID, 1, "test")
        work = (
            lambda: volumes.put_aside(dataset, aside, "volume"),
            lambda: volumes.roll_back(aside, name, self._guid("alpha", dataset, name), f"to {name}"),
            lambda: volumes.put_back(aside, dataset),
        )
        for each in work[:steps]:
            await each()

    async def _copy(self, node: str, disk: int, sequence: int, name: str) -> None:
        source = f"{POOLS[node]}/{image(disk)}"
        mark = copies.CopyMark(vmid=VMID, name=name, point=f"1-{sequence}", disk=f"scsi{disk}")
        order = CopyOrder(
            f"{source}@holdfast-1-{sequence}",
            copies.dataset(VMID, name, source),
            "volume",
            mark.model_dump_json(exclude_none=True),
            None,
        )
        await self._place.nodes[node].make_copy(order)

    async def _drop_copy(self, node: str, disk: int, name: str) -> None:
        await self._place.nodes[node].drop_copy(copies.dataset(VMID, name, f"{POOLS[node]}/{image(disk)}"))

    async def _aside(self, node: str, disk: int) -> None:
        await self._place.nodes[node].set_aside(f"{POOLS[node]}/{image(disk)}", VMID, 1)

    async def _send(self, disk: int, sequence: int, base: int | None, cut: str) -> None:
        source = f"rbd:home/{image(disk)}"
        since = self._guid("alpha", source, f"holdfast-1-{base}") if base is not None else 0
        receive = ReceiveOrder(
            f"rbd:away/{image(disk)}",
            f"{VMID}/scsi{disk}",
            "volume",
            incremental=base is not None,
            snapshot=f"holdfast-1-{sequence}",
            guid=self._guid("alpha", source, f"holdfast-1-{sequence}"),
            base=since,
        )
        order = SendOrder(f"{source}@holdfast-1-{sequence}", f"@holdfast-1-{base}" if base is not None else None)
        await self._place.move(order, receive, cut)

    async def _resume(self, disk: int, cut: str) -> None:
        """As the agent does: what was cut is sent again by its token."""
        partial = self._seen["beta"].volumes.get(f"rbd:away/{image(disk)}")
        source = self._seen["alpha"].volumes[f"rbd:home/{image(disk)}"]
        if partial is None or partial.resume_token is None or partial.resume_guid is None:
            return
        goal = source.snapshot(partial.resume_guid)
        if goal is None:
            return
        receive = ReceiveOrder(
            partial.dataset, f"{VMID}/scsi{disk}", "volume", True, snapshot=goal.name, guid=goal.guid
        )
        order = SendOrder(f"{source.dataset}@{goal.name}", resume_token=partial.resume_token)
        await self._place.move(order, receive, cut)

    # --- people

    async def _write(self, node: str, disk: int) -> None:
        self._place.write(f"{POOLS[node]}/{image(disk)}")

    async def _resize(self, node: str, disk: int) -> None:
        self._place.resize(f"{POOLS[node]}/{image(disk)}")

    async def _clone(self, node: str, disk: int, sequence: int, name: str) -> None:
        self._place.clone(f"{POOLS[node]}/{image(disk)}", f"holdfast-1-{sequence}", name)

    async def _flatten(self, node: str, name: str) -> None:
        self._place.flatten(f"{POOLS[node]}/{name}")

    async def _snapshot(self, node: str, disk: int, name: str) -> None:
        self._place.snapshot(f"{POOLS[node]}/{image(disk)}", name)

    async def _roll_back(self, node: str, disk: int, name: str) -> None:
        self._place.roll_back(f"{POOLS[node]}/{image(disk)}", name)

    async def _remove(self, node: str, disk: int, name: str) -> None:
        self._place.destroy(f"{POOLS[node]}/{image(disk)}", name)
