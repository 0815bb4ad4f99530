"""Did two nodes write to one guest's disks? Every acknowledged write is reported over the hosts' serial lines to one
process, outside their network and with one clock.

The invariant: for a guest, the intervals from the first to the last acknowledged write of different epochs do not
overlap, later epochs come later, and an epoch has one node. A writer that a freeze hits between its last fsync and
the report of it looks like a late writer: look at the two writes that a violation names before believing it.
"""

import re
import selectors
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

from .machine import Machine

_LINE = re.compile(rb"W (\S+) (\S+) (\d+) (\d+)\r?")
_RECONNECT_SECONDS = 0.05


@dataclass(frozen=True)
class Write:
    """One acknowledged write; `at` is the recorder's monotonic clock, in seconds."""

    at: float
    node: str
    guest: str
    epoch: int
    counter: int


def violations(writes: Iterable[Write]) -> list[str]:
    """What breaks the invariant above, in words; empty where nothing does. `writes` in the order of their arrival."""
    found: list[str] = []
    guests: dict[str, dict[int, list[Write]]] = defaultdict(lambda: defaultdict(list))
    for write in writes:
        guests[write.guest][write.epoch].append(write)
    for guest, epochs in sorted(guests.items()):
        for epoch, of_epoch in sorted(epochs.items()):
            nodes = sorted({write.node for write in of_epoch})
            if len(nodes) > 1:
                found.append(f"guest {guest}: epoch {epoch} was written by {' and '.join(nodes)}")
        for (early, before), (late, after) in pairwise(sorted(epochs.items())):
            if before[-1].at >= after[0].at:
                found.append(
                    f"guest {guest}: epoch {early} wrote {before[-1].counter} on {before[-1].node}"
                    f" {before[-1].at - after[0].at:.3f} s after epoch {late} had written {after[0].counter}"
                    f" on {after[0].node}"
                )
    return found


class Recorder:
    """Listens on the second serial line of each machine while its block runs; machines may die and come back."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = machines
        self._writes: list[Write] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def writes(self, guest: str | None = None) -> list[Write]:
        """The acknowledged writes so far, of all guests or of one."""
        return [write for write in list(self._writes) if guest in (None, write.guest)]

    def last_counter(self, guest: str) -> int:
        """The newest counter that was acknowledged for a guest; 0 before the first."""
        return max((write.counter for write in self.writes(guest)), default=0)

    def wait_for(self, guest: str, counter: int, timeout: float = 60.0) -> None:
        """Wait until a guest's counter is acknowledged. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.last_counter(guest) < counter:
            if time.monotonic() > deadline:
                raise TimeoutError(f"guest {guest} is at {self.last_counter(guest)}, not {counter}, after {timeout} s")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises AssertionError where two epochs wrote at one time."""
        found = violations(self.writes())
        assert not found, "\n".join(found)

    def _listen(self) -> None:
        lines: dict[Machine, socket.socket] = {}
        rests: dict[Machine, bytes] = {}
        with selectors.DefaultSelector() as selector:
            while not self._stop.is_set():
                for machine in self._machines:
                    if machine not in lines and (line := _connect(machine)):
                        lines[machine], rests[machine] = line, b""
                        selector.register(line, selectors.EVENT_READ, machine)
                for key, _ in selector.select(_RECONNECT_SECONDS):
                    machine = key.data
                    data = _receive(lines[machine])
                    if not data:
                        selector.unregister(lines[machine])
                        lines.pop(machine).close()
                        continue
                    *whole, rests[machine] = (rests[machine] + data).split(b"\n")
                    self._record(whole)
            for line in lines.values():
                line.close()

    def _record(self, lines: Iterable[bytes]) -> None:
        now = time.monotonic()
        for line in lines:
            if match := _LINE.fullmatch(line):
                node, guest, epoch, counter = (field.decode() for field in match.groups())
                self._writes.append(Write(now, node, guest, int(epoch), int(counter)))


def _connect(machine: Machine) -> socket.socket | None:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(machine.serial_socket))
    except OSError:  # no QEMU at the moment
        line.close()
        return None
    return line


def _receive(line: socket.socket) -> bytes:
    try:
        return line.recv(65536)
    except ConnectionError:
        return b""
