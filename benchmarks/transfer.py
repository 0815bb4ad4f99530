"""The data path against its limit, in one run: `make bench`, in a lab host, over the host's loopback.

  limit     zfs send and zfs recv, each given one end of a connected TCP socket by a bare parent
  Holdfast  the same dataset through preamble, answer, stream, result
Promise: at least 0.9 x the limit's throughput.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from lab.lab import Lab  # noqa: E402 - the lab is no installed package

MIB = 192
DRIVER = r"""
import asyncio, socket, statistics, subprocess, sys, time
from datetime import UTC, datetime
from holdfast.agent.ports import ReceiveOrder, SendOrder
from holdfast.agent.storage.zfs.volumes import ZfsVolumes
from holdfast.agent.transfer.tcp import TcpWire
from holdfast.proto import transfer_pb2 as wire

MIB, ROUNDS = int(sys.argv[1]), 3
volumes = ZfsVolumes(lambda: datetime.now(UTC))


def destroy(name):
    subprocess.run(["zfs", "destroy", "-r", name], check=True)


def limit():
    listener = socket.create_server(("127.0.0.1", 0))
    here = socket.create_connection(listener.getsockname())
    there, _ = listener.accept()
    began = time.monotonic()
    receiving = subprocess.Popen(["zfs", "recv", "-s", "-u", "tank/limit"], stdin=there.fileno())
    there.close()
    subprocess.run(["zfs", "send", "-L", "-e", "-c", "tank/source@1"], stdout=here.fileno(), check=True)
    here.close()
    assert receiving.wait() == 0
    seconds = time.monotonic() - began
    destroy("tank/limit")
    return seconds


async def holdfast():
    connections, port = TcpWire(), 17420

    async def serve(channel):
        await channel.request()
        await channel.send(wire.Answer())
        await volumes.receive(ReceiveOrder("tank/ours", "101/scsi0", "volume"), channel)
        await channel.send(wire.Result())

    server = asyncio.create_task(connections.serve("127.0.0.1", port, serve))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    channel = await connections.connect("here", "127.0.0.1", port)
    await channel.send(wire.Request())
    await channel.answer()
    await volumes.send(SendOrder("tank/source@1"), channel)
    await channel.result()
    seconds = time.monotonic() - began
    await channel.close()
    server.cancel()
    destroy("tank/ours")
    return seconds


limit()
pairs = [(limit(), asyncio.run(holdfast())) for _ in range(ROUNDS)]
bare, ours = (MIB / statistics.median(pair[i] for pair in pairs) for i in (0, 1))
ratio = statistics.median(a / b for a, b in pairs)
print(f"{MIB} MiB over loopback: {ours:.1f} MiB/s; bare children {bare:.1f} MiB/s; ratio {ratio:.2f} (promised: 0.9)")
sys.exit(0 if ratio >= 0.9 else 1)
"""


def main() -> int:
    """Exit 1 where the promise is not kept."""
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "bench"))
    try:
        lab.up(1)
        host = lab.hosts[0]
        host.deploy()
        host.run(
            f"""set -e; zfs create -s -V 512M tank/source
            for i in $(seq 100); do [ ! -b /dev/zvol/tank/source ] || break; sleep 0.1; done
            dd if=/dev/urandom of=/dev/zvol/tank/source bs=1M count={MIB} oflag=direct status=none
            zfs snapshot tank/source@1""",
            timeout=300,
        )
        result = host.result(f"PYTHONPATH=/opt/holdfast/src python3 - {MIB}", stdin=DRIVER.encode(), timeout=500)
        sys.stdout.write(result.stdout.decode())
        sys.stderr.write(result.stderr.decode())
        return result.status
    finally:
        lab.down()


if __name__ == "__main__":
    sys.exit(main())
