"""QEMU's monitor on a unix socket (docs/interop/qmp-spec.txt in QEMU): JSON, a line each way.

QEMU serves one client of a socket at a time; who comes second waits in its backlog.
"""

import json
import socket
import time
from typing import Any


class MonitorError(Exception):
    """The monitor did not answer, or refused; the message says what was asked."""


class Monitor:
    """A connection, ready for commands. `events` has the names of what happened since, as QEMU tells every client."""

    def __init__(self, path: str, timeout: float) -> None:
        """Connect and negotiate. OSError if nobody listens there, MonitorError if nobody answers within `timeout` s."""
        self.events: list[str] = []
        self._path = path
        self._buffer = b""
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            deadline = time.monotonic() + timeout
            while "QMP" not in self._read(deadline, "its greeting"):
                pass
            self.execute("qmp_capabilities", deadline)
        except BaseException:
            self._socket.close()
            raise

    def execute(self, command: str, deadline: float) -> Any:
        """Carry a command out. MonitorError if it is refused or not answered by `deadline` (monotonic)."""
        self._number += 1
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(json.dumps({"execute": command, "id": self._number}).encode() + b"\n")
        except OSError as error:
            raise MonitorError(f"{self._path}: {command}: {error}") from None
        while True:
            reply = self._read(deadline, command)
            if reply.get("id") != self._number:
                continue  # of an earlier command that was given up
            if "error" in reply:
                raise MonitorError(f"{self._path}: {command}: {reply['error'].get('desc')}")
            return reply.get("return")

    def close(self) -> None:
        """Let go of it, so that others may use it."""
        self._socket.close()

    def _read(self, deadline: float, what: str) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                message: dict[str, Any] = json.loads(line)
                if "event" not in message:
                    return message
                self.events.append(message["event"])
                continue
            self._receive(deadline, what)

    def _receive(self, deadline: float, what: str) -> None:
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(65536)
        except TimeoutError:
            raise MonitorError(f"{self._path}: no answer to {what} in time") from None
        except OSError as error:
            raise MonitorError(f"{self._path}: {what}: {error}") from None
        if not more:
            raise MonitorError(f"{self._path}: QEMU closed the connection at {what}")
        self._buffer += more
