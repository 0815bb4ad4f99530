"""A guest for tests: writes one counter to its disks A, B, C in turn, each flushed, and some data beside it.

Like a virtual machine it has a monitor: `stop` on its standard input makes it stand still (and answer `stopped`), while
librbd in it lives on; `cont` lets it go on; at the end of the input it closes its disks.
Arguments: the cluster's conf, its user, then POOL/NAMESPACE/IMAGE of each disk.
"""

import os
import random
import sys
import threading
import time

from holdfast.agent.storage.rbd import binding

BLOCK = 4096


def main() -> None:
    conf, user, *disks = sys.argv[1:]
    rados, rbd = binding.rados(), binding.rbd()
    connection = rados.Rados(conffile=conf, rados_id=user)
    connection.connect()
    images = []
    for disk in disks:
        pool, namespace, name = disk.split("/")
        io = connection.open_ioctx(pool)
        io.set_namespace(namespace)
        images.append(rbd.Image(io, name))
    running, still, ended = threading.Event(), threading.Event(), threading.Event()
    running.set()
    threading.Thread(target=_monitor, args=(running, still, ended), daemon=True).start()
    counter = int.from_bytes(images[0].read(0, 8), "big")
    print("writing", flush=True)
    while not ended.is_set():
        counter += 1
        for image in images:
            if not running.is_set():
                still.set()
                running.wait()
                still.clear()
            began = time.monotonic()
            image.write(counter.to_bytes(8, "big"), 0)
            image.write(os.urandom(BLOCK), BLOCK * random.randrange(1, 2048))
            image.flush()
            print(f"{counter} {time.time():.6f} {time.monotonic() - began:.3f}", flush=True)
        ended.wait(float(os.environ.get("PACE", "0.005")))
    for image in images:
        image.close()


def _monitor(running: threading.Event, still: threading.Event, ended: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            running.clear()
            still.wait()
            print("stopped", flush=True)
        else:
            running.set()
    ended.set()
    running.set()


if __name__ == "__main__":
    main()
