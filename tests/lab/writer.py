#!/usr/bin/python3
"""Write one growing counter to several targets in order, forever: what the checks of DESIGN §11 look at.

Runs in a host, with nothing but Python. A round writes the counter to the first target and fsyncs it, then to the
second, and so on; so at any instant A >= B >= C >= A - 1 holds for what the targets show. A finished round is reported
on the serial line, as `W NODE GUEST EPOCH COUNTER`, to a recorder outside the network.

A target is a block device, or a directory in which the file `counter` is used. The counter is at offset 0, as 20
digits; a copy, and `--payload` random bytes, go to an offset that moves on each round, so that changes are spread.
"""

import argparse
import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

BLOCK = 4096
DIGITS = 20


class Target:
    def __init__(self, path: str, span: int) -> None:
        if stat.S_ISDIR(os.stat(path).st_mode):
            path = os.path.join(path, "counter")
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.span = span

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def flush(self) -> None:
        os.fsync(self.fd)

    def read(self) -> int:
        text = self.read_at(0, DIGITS)
        return int(text) if text.strip(b"\0") else 0

    def write(self, counter: int, payload: int) -> None:
        block = b"%0*d\n" % (DIGITS, counter)
        block = block.ljust(BLOCK, b"\0")
        size = BLOCK + payload
        slots = max(1, (self.span - BLOCK) // size)
        self.write_at(BLOCK + counter % slots * size, block + os.urandom(payload))
        self.write_at(0, block)
        self.flush()


def rounds(targets: Sequence[Target], payload: int, gate: AbstractContextManager[Any]) -> Iterator[int]:
    """Write round after round, each write inside `gate`; yields the counter after each."""
    # As a guest's own software would: what the last target has is finished, the rest of a torn round is done again.
    counter = targets[0].read()
    for target in targets[1:]:
        if target.read() < counter:
            with gate:
                target.write(counter, 0)
    while True:
        counter += 1
        for target in targets:
            with gate:
                target.write(counter, payload)
        yield counter


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--node", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--epoch", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between rounds")
    parser.add_argument("--payload", type=int, default=0, help="random bytes per round and target")
    parser.add_argument("--span", type=int, default=8 << 20, help="bytes of each target that are used")
    parser.add_argument("--serial", default="/dev/ttyS1")
    return parser.parse_args()


def run(options: argparse.Namespace, targets: Sequence[Target], gate: AbstractContextManager[Any]) -> None:
    serial = os.open(options.serial, os.O_WRONLY | os.O_NOCTTY)
    for counter in rounds(targets, options.payload, gate):
        os.write(serial, f"W {options.node} {options.guest} {options.epoch} {counter}\n".encode())
        time.sleep(options.pause)


def main() -> None:
    options = parse(argparse.ArgumentParser())
    run(options, [Target(path, options.span) for path in options.targets], contextlib.nullcontext())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
