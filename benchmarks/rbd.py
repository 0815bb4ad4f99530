"""RBD against its limits, in one run, on a small real Ceph (one OSD): `python benchmarks/rbd.py`.

data path   500 MiB from image to image: Holdfast's preamble, answer, stream and result over loopback, beside the bare
            `rbd export-diff | rbd import-diff`. Promise: at least 0.9 x its throughput.
idle cycle  a look at 200 images with a snapshot each: processes started and operations of the OSD (`perf dump`),
            beside a loop of `rbd snap ls`, which finds out less.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from holdfast.agent.ports import Channel, ReceiveOrder, SendOrder  # noqa: E402
from holdfast.agent.storage.rbd import binding  # noqa: E402
from holdfast.agent.storage.volumes import NodeVolumes  # noqa: E402
from holdfast.agent.transfer.tcp import TcpWire  # noqa: E402
from holdfast.coordinator.model.storage import Storage  # noqa: E402
from holdfast.proto import transfer_pb2 as wire  # noqa: E402
from integration.ceph.cluster import CephCluster, ceph_running  # noqa: E402
from integration.etcd_cluster import free_port  # noqa: E402

MIB = 500
IMAGES = 200
ROUNDS = 15  # of five the ratio scatters by a tenth


def fill(cluster: CephCluster) -> None:
    """An image of random data, snapshotted."""
    cluster.rbd("create", "--size", "1G", "src/vm-101-disk-0")
    rados, rbd = binding.rados(), binding.rbd()
    with (
        rados.Rados(conffile=str(cluster.conf), rados_id="admin") as connection,
        connection.open_ioctx("src") as io,
        rbd.Image(io, "vm-101-disk-0") as image,
    ):
        for number in range(MIB // 4):
            image.write(os.urandom(4 * 2**20), number * 4 * 2**20)
        image.create_snap("holdfast-1-1")


def bare(cluster: CephCluster, number: int) -> float:
    """Seconds of the pipeline."""
    cluster.rbd("create", "--size", "1M", f"dst/bare-{number}")
    began = time.monotonic()
    argv = ["rbd", "-c", str(cluster.conf), "--no-progress"]
    out = subprocess.Popen([*argv, "export-diff", "src/vm-101-disk-0@holdfast-1-1", "-"], stdout=subprocess.PIPE)
    subprocess.run([*argv, "import-diff", "-", f"dst/bare-{number}"], stdin=out.stdout, check=True)
    assert out.wait() == 0
    seconds = time.monotonic() - began
    remove(cluster, f"dst/bare-{number}")
    return seconds


def remove(cluster: CephCluster, image: str) -> None:
    cluster.rbd("snap", "purge", image)
    cluster.rbd("rm", image)


async def holdfast(cluster: CephCluster, volumes: NodeVolumes, number: int) -> float:
    """Seconds of the same by an agent's two ends."""
    image, connections, port = f"vm-{number}-disk-0", TcpWire(), free_port()

    async def serve(channel: Channel) -> None:
        await channel.request()
        await channel.send(wire.Answer())
        order = ReceiveOrder(f"rbd:dst/{image}", f"{number}/scsi0", "volume", snapshot="holdfast-1-1", guid=7)
        await volumes.receive(order, channel)
        await channel.send(wire.Result())

    server = asyncio.create_task(connections.serve("127.0.0.1", port, serve))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    channel = await connections.connect("here", "127.0.0.1", port)
    await channel.send(wire.Request())
    await channel.answer()
    await volumes.send(SendOrder("rbd:src/vm-101-disk-0@holdfast-1-1"), channel)
    await channel.result()
    seconds = time.monotonic() - began
    await channel.close()
    server.cancel()
    remove(cluster, f"dst/{image}")
    return seconds


async def data_path(cluster: CephCluster, volumes: NodeVolumes) -> float:
    fill(cluster)
    await volumes.scan()
    await holdfast(cluster, volumes, 999)  # the first finds cold caches
    pairs = [(bare(cluster, n), await holdfast(cluster, volumes, 200 + n)) for n in range(ROUNDS)]
    limit, ours = (MIB / statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"{MIB} MiB: {ours:.0f} MiB/s; export-diff | import-diff {limit:.0f} MiB/s; ratio {ratio:.2f} (promised: 0.9)"
    )
    return ratio


def operations(cluster: CephCluster) -> int:
    return int(cluster.perf()["osd"]["op"])


async def idle_cycle(cluster: CephCluster, volumes: NodeVolumes) -> None:
    rados, rbd = binding.rados(), binding.rbd()
    names = [f"vm-{1000 + n}-disk-0" for n in range(IMAGES)]
    with rados.Rados(conffile=str(cluster.conf), rados_id="admin") as connection, connection.open_ioctx("many") as io:
        for name in names:
            rbd.RBD().create(io, name, 2**30, old_format=False, features=61)
            with rbd.Image(io, name) as image:
                image.create_snap("holdfast-1-1")
    before, began = operations(cluster), time.monotonic()
    await volumes.scan()
    first = operations(cluster) - before, time.monotonic() - began
    before, began = operations(cluster), time.monotonic()
    await volumes.scan()
    idle = operations(cluster) - before, time.monotonic() - began
    before, began = operations(cluster), time.monotonic()
    for name in names:
        cluster.rbd("snap", "ls", f"many/{name}")
    loop = operations(cluster) - before, time.monotonic() - began
    print(f"{IMAGES} images, first look: 0 processes, {first[0]} OSD operations, {first[1]:.2f} s")
    print(f"{IMAGES} images, idle cycle: 0 processes, {idle[0]} OSD operations, {idle[1]:.2f} s")
    print(f"a loop of rbd snap ls:   {IMAGES} processes, {loop[0]} OSD operations, {loop[1]:.2f} s")


async def run(cluster: CephCluster, keys: Path) -> float:
    storages = {}
    for pool in ("src", "dst", "many"):
        cluster.make_pool(pool)
        (keys / f"{pool}.keyring").write_bytes(cluster.keyring.read_bytes())
        properties = {"pool": pool, "monhost": cluster.address}
        storages[pool] = Storage(type="rbd", shared=True, properties=properties)
    volumes = NodeVolumes("alpha", lambda: datetime.now(UTC), keys, Path("/nonexistent"))
    volumes.storages = lambda: storages
    try:
        ratio = await data_path(cluster, volumes)
        volumes.storages = lambda: {"many": storages["many"]}
        await idle_cycle(cluster, volumes)
    finally:
        volumes.close()
    return ratio


def main() -> int:
    """Exit 1 where the promise is not kept."""
    with ceph_running() as cluster, tempfile.TemporaryDirectory() as keys:
        return 0 if asyncio.run(run(cluster, Path(keys))) >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
