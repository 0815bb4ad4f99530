"""The data path with and without TLS, in one run: `make bench`. Children write and read as zfs send and zfs recv do.

  bare     the children have the two ends of a TCP connection over loopback
  mTLS     between them is mutual TLS 1.3, moved by one thread at each end
Both ends share this machine's cores; between two machines each end has its own.
"""

import asyncio
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from holdfast.agent.ports import Channel  # noqa: E402 - as below
from holdfast.agent.transfer.tcp import TcpWire  # noqa: E402
from holdfast.agent.transfer.tls import TlsWire  # noqa: E402
from holdfast.coordinator.identity.credentials import Credentials  # noqa: E402
from integration.certificates import Certificates  # noqa: E402 - the tests are no installed package

MIB = int(os.environ.get("MIB", "2048"))
ROUNDS = 3
SINK = f"import os\nb = bytearray({2**18})\nn = 0\nwhile k := os.readv(0, [b]): n += k\nprint(n)"
SOURCE = (
    f"import os\nb = bytes({2**18})\nfor _ in range({MIB * 4}):\n v = memoryview(b)\n while v: v = v[os.write(1, v):]"
)


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def wire(folder: str, name: str) -> TcpWire | TlsWire:
    """Without a folder, the bare one."""
    base = Path(folder)
    files = base / "ca.crt", base / f"{name}-node.crt", base / f"{name}-node.key"
    return TlsWire(Credentials(*files)) if folder else TcpWire()


async def receive(folder: str) -> None:
    """One end, a process of its own: prints its port, then what arrived and the CPU seconds that it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(channel: Channel) -> None:
        async with channel.receiving() as descriptor:  # type: ignore[attr-defined]
            pipe = asyncio.subprocess.PIPE
            sink = await asyncio.create_subprocess_exec(sys.executable, "-c", SINK, stdin=descriptor, stdout=pipe)
            counted, _ = await sink.communicate()
        arrived.set_result(counted)

    serving = asyncio.create_task(wire(folder, "beta").serve("127.0.0.1", port, handler))
    await asyncio.sleep(0.1)
    print(port, flush=True)
    used = cpu()
    print(int(await arrived), cpu() - used, flush=True)
    serving.cancel()
    await asyncio.wait((serving,))


async def move(folder: str) -> tuple[float, float]:
    """MiB/s, and CPU seconds per GiB of both ends and the children."""
    pipe = asyncio.subprocess.PIPE
    there = await asyncio.create_subprocess_exec(sys.executable, __file__, "receive", folder, stdout=pipe)
    assert there.stdout is not None
    port = int(await there.stdout.readline())
    channel = await wire(folder, "alpha").connect("beta", "127.0.0.1", port)
    began, used = time.monotonic(), cpu()
    async with channel.sending() as descriptor:
        source = await asyncio.create_subprocess_exec(sys.executable, "-c", SOURCE, stdout=descriptor)
        await source.wait()
    used = cpu() - used
    count, others = (await there.stdout.readline()).split()
    seconds = time.monotonic() - began
    assert int(count) == MIB << 20
    await channel.close()
    await there.wait()
    return MIB / seconds, (used + float(others)) / (MIB / 1024)


def main() -> None:
    """Print both, and how they relate."""
    if sys.argv[1:2] == ["receive"]:
        asyncio.run(receive(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        for name in ("alpha", "beta"):
            certificates.issue(name)
        runs = [(asyncio.run(move("")), asyncio.run(move(folder))) for _ in range(ROUNDS)]
    bare, tls = (tuple(statistics.median(run[i][n] for run in runs) for n in (0, 1)) for i in (0, 1))
    print(f"{MIB} MiB over loopback, both ends on this machine: median of {ROUNDS}")
    print(f"  bare socket  {bare[0]:6.0f} MiB/s  {bare[1]:.2f} CPU-s/GiB")
    print(f"  mTLS         {tls[0]:6.0f} MiB/s  {tls[1]:.2f} CPU-s/GiB")
    print(f"  mTLS / bare: {tls[0] / bare[0]:.2f} x the throughput, {tls[1] / bare[1]:.2f} x the CPU")


if __name__ == "__main__":
    main()
