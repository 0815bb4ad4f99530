"""Runs in a host: sends and receives (JSON on stdin) by the agent's ZFS back end; prints what came of each.

With the simulator's model in ZFS's place the same lines must come out.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.agent.ports import ReceiveOrder, SendOrder, VolumesError
from holdfast.coordinator.planning.observed import Scan, Volume

SOURCE, REPLICA = "tank/vm-101-disk-0", "tank/copy/vm-101-disk-0"
SIZE = 16 << 20
BLOCK = 1 << 20
"""Bytes of a write, so that every stream of something that was written is longer than half of it."""
CUTS = {"whole": 1 << 40, "half": BLOCK // 2, "opened": 1000, "begun": 312}
"""Bytes after which a stream breaks; a record (dmu_replay_record_t) has 312, and the first ones bring no data."""


class Run:
    """Operations on a volume and its replica. GUIDs are told by the order in which they were first seen."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._guids: dict[int, int] = {}

    async def do(self, operation: list[Any]) -> list[Any]:
        name, *args = operation
        try:
            await getattr(self, f"_{name}")(*args)
            outcome = "ok"
        except VolumesError:
            outcome = "failed"
        scan: Scan = await self._pool.scan()
        return [outcome, *(self._show(scan.volumes.get(name)) for name in (SOURCE, REPLICA))]

    def _number(self, guid: int) -> int:
        return self._guids.setdefault(guid, len(self._guids) + 1)

    def _show(self, volume: Volume | None) -> Any:
        if volume is None:
            return None
        return {
            "snapshots": [[s.name, self._number(s.guid)] for s in volume.snapshots],
            "bookmarks": sorted([b.name, self._number(b.guid)] for b in volume.bookmarks),
            "written": volume.written > 0 if volume.snapshots else None,
            "token": volume.resume_token is not None,
            "partial": [volume.resume_guid and self._number(volume.resume_guid), volume.resume_base is not None],
            "marks": sorted(volume.marks.items()),
        }

    async def _write(self) -> None:
        self._pool.write(SOURCE)

    async def _modify(self) -> None:
        """Somebody writes to the replica."""
        if (volume := (await self._pool.scan()).volumes.get(REPLICA)) and volume.snapshots:
            self._pool.write(REPLICA)

    async def _snapshot(self, number: int) -> None:
        self._pool.snapshot(f"{SOURCE}@holdfast-1-{number}")

    async def _snapshot_replica(self, name: str) -> None:
        self._pool.snapshot(f"{REPLICA}@{name}")

    async def _bookmark(self, number: int) -> None:
        self._pool.bookmark(f"{SOURCE}@holdfast-1-{number}", f"{SOURCE}#holdfast-1-{number}")

    async def _destroy(self, name: str) -> None:
        self._pool.destroy(name)

    async def _drop_bookmark(self, number: int) -> None:
        await self._pool.drop_bookmark(f"{SOURCE}#holdfast-1-{number}")

    async def _abort(self) -> None:
        await self._pool.abort_partial(REPLICA)

    async def _aside(self) -> None:
        await self._pool.set_aside(REPLICA, 101, 1)

    async def _send(self, number: int, base: str | None, cut: str) -> None:
        order = SendOrder(f"{SOURCE}@holdfast-1-{number}", base)
        receive = ReceiveOrder(REPLICA, "101/scsi0", "volume", incremental=base is not None)
        await self._pool.move(order, receive, cut)

    async def _resume(self, cut: str) -> None:
        volume = (await self._pool.scan()).volumes.get(REPLICA)
        if volume is not None and volume.resume_token is not None:
            order = SendOrder("", resume_token=volume.resume_token)
            await self._pool.move(order, ReceiveOrder(REPLICA, "101/scsi0", "volume", resume=True), cut)


class End:
    """One side of a connection, as the back ends want it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._asked = 0

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[int]:
        yield self._end.fileno()

    receiving = sending

    def transferred(self) -> int:
        self._asked += 1  # nothing stands still here
        return self._asked

    def abort(self) -> None:
        self._end.shutdown(socket.SHUT_RDWR)


class Zfs:
    """The real thing."""

    def __init__(self) -> None:
        from holdfast.agent.storage.zfs.volumes import ZfsVolumes

        self._volumes = ZfsVolumes(lambda: datetime.now(UTC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._volumes, name)

    def write(self, name: str) -> None:
        if name == REPLICA:
            self._zfs("set", "readonly=off", "volmode=dev", name)
        subprocess.run(["udevadm", "settle"], check=False)
        device = Path(f"/dev/zvol/{name}")
        if device.is_block_device():
            argv = ["dd", "if=/dev/urandom", f"of={device}", f"bs={BLOCK}", "count=1", "conv=notrunc,fsync"]
            subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["zpool", "sync"], check=True)
        if name == REPLICA:
            self._zfs("set", "readonly=on", "volmode=none", name)

    def snapshot(self, name: str) -> None:
        self._zfs("snapshot", name)

    def bookmark(self, name: str, bookmark: str) -> None:
        self._zfs("bookmark", name, bookmark)

    def destroy(self, name: str) -> None:
        self._zfs("destroy", name)

    def _zfs(self, *args: str) -> None:
        if subprocess.run(["zfs", *args], check=False, stderr=subprocess.DEVNULL).returncode:
            raise VolumesError(" ".join(args))

    async def move(self, order: SendOrder, receive: ReceiveOrder, cut: str) -> None:
        """A stream through a connection that breaks after some bytes. Raises what became of the receive."""
        sending, out = socket.socketpair()
        back, receiving = socket.socketpair()

        async def send() -> None:
            with sending:
                await self._volumes.send(order, End(sending))  # type: ignore[arg-type]

        async def relay() -> None:
            loop, left = asyncio.get_running_loop(), CUTS[cut]
            with out, back:
                out.setblocking(False)
                back.setblocking(False)
                while left and (data := await loop.sock_recv(out, min(65536, left))):
                    await loop.sock_sendall(back, data)
                    left -= len(data)

        async def take() -> None:
            with receiving:
                await self._volumes.receive(receive, End(receiving))  # type: ignore[arg-type]

        *_, received = await asyncio.gather(send(), relay(), take(), return_exceptions=True)
        if received is not None:
            raise received


async def _main() -> None:
    run = Run(Zfs())
    for line in sys.stdin:
        print(json.dumps(await run.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    subprocess.run(["zfs", "create", "-s", "-V", str(SIZE), SOURCE], check=True)
    asyncio.run(_main())
