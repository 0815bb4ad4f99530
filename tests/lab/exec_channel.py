"""Running a script in a host, over the control network (which cutting the LAN leaves whole).

The other end, and the protocol, is guest/lab-exec.
"""

import contextlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

# What the wire and an emulated machine may add to a script's own timeout, in seconds.
_MARGIN = 20.0


class ScriptFailed(Exception):
    """A script exited with a status other than 0 (-9: it ran into its timeout)."""


class HostSilent(Exception):
    """The host does not answer on the exec channel."""


@dataclass(frozen=True)
class Result:
    """What a script left: exit status, stdout, stderr."""

    status: int
    stdout: bytes
    stderr: bytes


class ExecChannel:
    """Calls to one host by its forwarded port on the namespace's loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def run(self, script: str, *, stdin: bytes | Path = b"", timeout: float = 60.0, refresh: bool = False) -> Result:
        """Run a bash script with `stdin` (bytes, or a file's content); `refresh` gives a restored host time and
        randomness first. Raises HostSilent when the channel breaks."""
        request: dict[str, object] = {"script": script, "timeout": timeout}
        if refresh:
            request |= {"clock": time.time(), "seed": os.urandom(64).hex()}
        header = json.dumps(request).encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=timeout + _MARGIN) as connection:
                connection.sendall(struct.pack("!I", len(header)) + header)
                try:
                    if isinstance(stdin, Path):
                        with stdin.open("rb") as file:
                            connection.sendfile(file)
                    else:
                        connection.sendall(stdin)
                    connection.shutdown(socket.SHUT_WR)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # a script need not read its stdin to the end
                reply = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        except OSError as error:
            raise HostSilent(f"port {self.port}: {error}") from error
        if len(reply) < 8:
            raise HostSilent(f"port {self.port}: the connection ended before the script's result")
        status, length = struct.unpack("!iI", reply[-8:])
        output = reply[:-8]
        split = len(output) - length
        return Result(status, output[:split], output[split:])

    def send(self, script: str) -> None:
        """Start a script without waiting for its result."""
        header = json.dumps({"script": script, "timeout": 60}).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=_MARGIN) as connection:
            connection.sendall(struct.pack("!I", len(header)) + header)
            connection.shutdown(socket.SHUT_WR)
            # Closed at once, the user-mode network might drop what it has not yet handed over.
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.recv(1)

    def wait(self, timeout: float, *, refresh: bool = False) -> None:
        """Wait until the host runs scripts. Raises HostSilent after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._knock(refresh=refresh)
            except HostSilent:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _knock(self, *, refresh: bool) -> None:
        # The user-mode network accepts before anyone listens in the host, and then may keep the connection open: a
        # short try, repeated.
        request: dict[str, object] = {"script": "true", "timeout": 2}
        if refresh:
            request |= {"clock": time.time(), "seed": os.urandom(64).hex()}
        header = json.dumps(request).encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(struct.pack("!I", len(header)) + header)
                connection.shutdown(socket.SHUT_WR)
                if connection.recv(8) != struct.pack("!iI", 0, 0):
                    raise HostSilent(f"port {self.port}: no proper answer")
        except OSError as error:
            raise HostSilent(f"port {self.port}: {error}") from error
