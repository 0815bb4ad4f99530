#!/usr/bin/python3
"""Stands in for the QEMU of a VM with disks on ZFS and on RBD: writes as writer.py does, and stands still when told.

As QEMU does, it writes to images by librbd within itself, and answers `stop` on its monitor (QMP) once nothing is in
flight and all is flushed. With --deaf it answers just so and writes on: what the check of points must find.
"""

import argparse
import json
import socket
import threading

import rados
import rbd
from writer import Target, parse, run


class Image(Target):
    """`rbd:POOL/IMAGE`."""

    def __init__(self, cluster: rados.Rados, path: str, span: int) -> None:
        pool, _, name = path.removeprefix("rbd:").partition("/")
        self.image = rbd.Image(cluster.open_ioctx(pool), name)
        self.span = span

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.image.read(offset, length))

    def write_at(self, offset: int, data: bytes) -> None:
        self.image.write(data, offset)

    def flush(self) -> None:
        self.image.flush()


class Monitor(threading.Thread):
    """The part of QMP that a pause takes, for one client at a time. `running` is held while a write is under way."""

    def __init__(self, path: str, running: threading.Lock, *, deaf: bool) -> None:
        super().__init__(daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._running = running
        self._deaf = deaf
        self._stopped = False

    def run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client, client.makefile("rw") as stream:
                print(json.dumps({"QMP": {}}), file=stream, flush=True)
                for line in stream:
                    asked = json.loads(line)
                    answer = {"return": self._carry_out(asked["execute"]), "id": asked["id"]}
                    print(json.dumps(answer), file=stream, flush=True)

    def _carry_out(self, command: str) -> dict[str, str]:
        if command == "query-status":
            return {"status": "paused" if self._stopped else "running"}
        if command == "stop":
            self._stand_still(True)
        elif command == "cont":
            self._stand_still(False)
        return {}

    def _stand_still(self, wanted: bool) -> None:
        if wanted != self._stopped and not self._deaf:
            if wanted:
                self._running.acquire()
            else:
                self._running.release()
        self._stopped = wanted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--qmp", required=True)
    parser.add_argument("--ceph", required=True, help="address of a mon")
    parser.add_argument("--keyring", required=True)
    parser.add_argument("--deaf", action="store_true")
    options = parse(parser)
    cluster = rados.Rados(rados_id="admin", conf={"mon_host": options.ceph, "keyring": options.keyring})
    cluster.connect()
    targets = [
        Image(cluster, path, options.span) if path.startswith("rbd:") else Target(path, options.span)
        for path in options.targets
    ]
    running = threading.Lock()
    Monitor(options.qmp, running, deaf=options.deaf).start()
    run(options, targets, running)


if __name__ == "__main__":
    main()
