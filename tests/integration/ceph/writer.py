"""A guest for tests: writes one counter to its disks A, B, C in turn, each flushed, and some data beside it.

Like a virtual machine it has a monitor (`monitor.py`), and librbd in it lives on while it stands still; at the end of
its standard input it closes its disks. What a torn round has left is finished first, as a guest's own software would.
Arguments: the cluster's conf, its user, then POOL/NAMESPACE/IMAGE of each disk.
"""

import os
import random
import sys
import time
from typing import Any

from holdfast.agent.storage.rbd import binding
from integration.ceph.monitor import Monitor

BLOCK = 4096
AREA = 2048 * BLOCK
"""Bytes of each disk that are written to."""


def main() -> None:
    conf, user, *disks = sys.argv[1:]
    rados, rbd = binding.rados(), binding.rbd()
    monitor = Monitor()
    monitor.start()
    connection = rados.Rados(conffile=conf, rados_id=user)
    connection.connect()
    images = []
    for disk in disks:
        pool, namespace, name = disk.split("/")
        io = connection.open_ioctx(pool)
        io.set_namespace(namespace)
        images.append(rbd.Image(io, name))
    counter, *others = (int.from_bytes(image.read(0, 8), "big") for image in images)
    for image, other in zip(images[1:], others, strict=True):
        if other < counter:
            write(monitor, image, counter)
    print("writing", flush=True)
    while not monitor.ended.is_set():
        counter += 1
        for image in images:
            write(monitor, image, counter)
        monitor.ended.wait(float(os.environ.get("PACE", "0.005")))
    for image in images:
        image.close()


def write(monitor: Monitor, image: Any, counter: int) -> None:
    """And say so."""
    monitor.pass_by()
    began = time.monotonic()
    image.write(counter.to_bytes(8, "big"), 0)
    image.write(os.urandom(BLOCK), random.randrange(BLOCK, AREA, BLOCK))
    image.flush()
    print(f"{counter} {time.time():.6f} {time.monotonic() - began:.3f}", flush=True)


if __name__ == "__main__":
    main()
