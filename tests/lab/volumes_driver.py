"""Runs in a host: carries out operations (JSON on stdin) through the agent's ZFS back end; prints what came of each.

With the simulator's model in ZFS's place the same lines must come out.
"""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.agent.ports import CommitOrder, CopyOrder, Refused, TakeOrder, VolumesError
from holdfast.coordinator.model.point import Consistency, Member, PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Scan

VMID = 101
SIZE = 16 << 20


class Run:
    """Operations on one storage. GUIDs are told by the order in which they were first seen, as they are random."""

    def __init__(self, volumes: Any, foreign: Any) -> None:
        self._volumes = volumes
        self._foreign = foreign
        self._guids: dict[int, int] = {}
        self._points: dict[int, RecoveryPoint] = {}

    async def do(self, operation: list[Any]) -> list[Any]:
        name, *args = operation
        try:
            said = await getattr(self, f"_{name}")(*args)
            outcome = ["ok", said]
        except Refused as refusal:
            outcome = ["refused", refusal.reason]
        except VolumesError:
            outcome = ["failed"]
        return [outcome, self._show(await self._volumes.scan())]

    def _number(self, guid: int) -> int:
        return self._guids.setdefault(guid, len(self._guids) + 1)

    def _show(self, scan: Scan) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, volume in sorted(scan.volumes.items()):
            if "vm-101-disk-" in name:
                snapshots = [[s.name, self._number(s.guid), s.holds] for s in volume.snapshots]
                bookmarks = sorted([b.name, self._number(b.guid)] for b in volume.bookmarks)
                written = volume.origin is None and volume.written > 0  # a clone has some of its own at once
                marks = sorted((k, v) for k, v in volume.marks.items() if k in ("replica", "copy"))
                shown[name] = [snapshots, bookmarks, written, marks, volume.origin]
        for (pool, vmid), anchor in sorted(scan.anchors.items()):
            points = [
                [str(p.id), [[m.disk, m.snapshot, self._number(m.guid)] for m in p.members]] for p in anchor.points
            ]
            sent = sorted((target, str(id)) for target, id in anchor.sent.items())
            shown[f"{pool} {vmid}"] = [anchor.epoch, points, sent, sorted(anchor.definitions.items())]
        return shown

    async def _prepare(self) -> None:
        await self._volumes.prepare("tank", VMID)

    async def _raise_epoch(self, epoch: int) -> None:
        await self._volumes.raise_epoch("tank", VMID, epoch)

    async def _take(self, epoch: int, sequence: int, disks: list[int], reuse: int) -> None:
        id = PointId(epoch, sequence)
        members = tuple(
            Member(
                disk=f"scsi{n}", volume=f"local-zfs:vm-101-disk-{n}", dataset=f"tank/vm-101-disk-{n}",
                snapshot=id.snapshot, guid=0, size=SIZE,
            )
            for n in disks
        )  # fmt: skip
        before = self._points.get(reuse)
        again = {m.dataset: (m.snapshot, m.guid) for m in before.members} if before else {}
        point = self._point(id, members)
        self._points[sequence] = await self._volumes.take(TakeOrder(VMID, "tank", epoch, point, again, "text"))

    @staticmethod
    def _point(id: PointId, members: tuple[Member, ...]) -> RecoveryPoint:
        return RecoveryPoint(
            epoch=id.epoch,
            sequence=id.sequence,
            instant=datetime(2026, 3, 2, tzinfo=UTC),
            consistency=Consistency.ATOMIC,
            definition="0" * 16,
            disks=tuple(m.disk for m in members),
            members=members,
        )

    async def _hold(self, names: list[str]) -> None:
        await self._volumes.hold(names)

    async def _release(self, names: list[str]) -> None:
        await self._volumes.release(names)

    async def _record_sent(self, epoch: int, sequence: int, target: str) -> None:
        point = self._points.get(sequence)
        pairs = [(m.full_name, f"{m.dataset}#{m.snapshot}") for m in point.members] if point else []
        await self._volumes.record_sent("tank", VMID, epoch, target, PointId(1, sequence), pairs)

    async def _destroy(self, epoch: int, sequence: int, wrong: bool) -> None:
        point = self._points.get(sequence)
        doomed = [Doomed(m.full_name, m.guid + wrong) for m in point.members] if point else []
        await self._volumes.destroy("tank", VMID, epoch, doomed, [point.id] if point else [], [])

    async def _drop_bookmark(self, name: str) -> None:
        await self._volumes.drop_bookmark(name)

    async def _commit(self, epoch: int, sequence: int, wrong: bool, destroy: int) -> None:
        point = self._points.get(sequence)
        if point is None:
            return
        members = tuple(m.model_copy(update={"guid": m.guid + wrong}) for m in point.members)
        goes = self._points.get(destroy)
        doomed = tuple(Doomed(m.full_name, m.guid) for m in goes.members) if goes and destroy != sequence else ()
        order = CommitOrder(
            VMID, "tank", epoch, self._point(point.id, members), "text", doomed, (goes.id,) if doomed and goes else ()
        )
        await self._volumes.commit(order)

    async def _abort_partial(self, name: str) -> None:
        await self._volumes.abort_partial(name)

    async def _set_aside(self, name: str) -> str:
        return str(await self._volumes.set_aside(name, VMID, 1))

    async def _put_aside(self, disk: int, why: str) -> None:
        await self._volumes.put_aside(f"tank/vm-101-disk-{disk}", self._aside(disk, why), "volume")

    async def _clone_back(self, disk: int, why: str, sequence: int) -> None:
        snapshot = f"{self._aside(disk, why)}@holdfast-1-{sequence}"
        await self._volumes.clone_back(snapshot, f"tank/vm-101-disk-{disk}", "volume")

    async def _promote(self, epoch: int, disk: int, why: str, sequence: int, wrong: bool) -> None:
        snapshot, member = (
            f"{self._aside(disk, why)}@holdfast-1-{sequence}",
            self._points[sequence].member(f"scsi{disk}"),
        )
        guid = member.guid + wrong if member else 0
        await self._volumes.promote("tank", VMID, epoch, f"tank/vm-101-disk-{disk}", snapshot, guid)

    @staticmethod
    def _aside(disk: int, why: str) -> str:
        return f"tank/holdfast/aside/101-e1-{why}-vm-101-disk-{disk}"

    async def _copy(self, disk: int, sequence: int) -> None:
        snapshot = f"tank/vm-101-disk-{disk}@holdfast-1-{sequence}"
        await self._volumes.make_copy(CopyOrder(snapshot, self._copied(disk), "volume", "{}", None))

    async def _drop_copy(self, disk: int) -> None:
        await self._volumes.drop_copy(self._copied(disk))

    @staticmethod
    def _copied(disk: int) -> str:
        return f"tank/holdfast/clones/101-c-vm-101-disk-{disk}"

    async def _write(self, disk: int) -> None:
        self._foreign("write", f"tank/vm-101-disk-{disk}")

    async def _foreign_snapshot(self, disk: int, name: str) -> None:
        self._foreign("snapshot", f"tank/vm-101-disk-{disk}@{name}")


def _zfs(what: str, name: str) -> None:
    """What others do to the volumes."""
    if what == "create":
        subprocess.run(["zfs", "create", "-s", "-V", str(SIZE), name], check=True)
    elif what == "snapshot":
        subprocess.run(["zfs", "snapshot", name], check=False, stderr=subprocess.DEVNULL)
    elif _there(f"/dev/zvol/{name}"):
        argv = ["dd", "if=/dev/urandom", f"of=/dev/zvol/{name}", "bs=64k", "count=1", "conv=notrunc,fsync"]
        subprocess.run(argv, check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["zpool", "sync"], check=True)


def _there(device: str) -> bool:
    """Wait for udev, which makes and removes links a moment after zfs has ended."""
    subprocess.run(["udevadm", "settle"], check=False)
    return Path(device).is_block_device()


async def _main() -> None:
    from holdfast.agent.storage.zfs.volumes import ZfsVolumes

    run = Run(ZfsVolumes(lambda: datetime.now(UTC)), _zfs)
    for line in sys.stdin:
        print(json.dumps(await run.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    for number in range(2):
        _zfs("create", f"tank/vm-101-disk-{number}")
    subprocess.run(["udevadm", "settle"], check=False)
    asyncio.run(_main())
