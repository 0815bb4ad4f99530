"""The guest agent of a VM (docs/interop/qemu-ga-ref in QEMU), on the socket that its virtio port ends at.

It speaks JSON, a line each way, and carries out one command after the other. Two things are QEMU's: a socket serves one
client at a time, and what a client that left had asked is still carried out. So a freeze is always followed by a thaw.
"""

import json
import random
import socket
import time
from typing import Any

_MARK = b"\xff"
"""Comes before the answer to guest-sync-delimited; whatever was said before it belongs to somebody else."""


class AgentError(Exception):
    """The agent did not answer, or refused; the message says what was asked."""


class GuestAgent:
    """A connection to an agent that answers. As long as it is open nobody else can speak to that agent."""

    def __init__(self, path: str, timeout: float) -> None:
        """OSError if there is no such socket, AgentError if no agent answers within `timeout` seconds."""
        self._path = path
        self._buffer = b""
        self._owed = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._sync(time.monotonic() + timeout)
        except BaseException:
            self._socket.close()
            raise

    def frozen(self, deadline: float) -> bool:
        """Whether the guest's file systems are frozen, by whomever. AgentError."""
        return bool(self._execute("guest-fsfreeze-status", deadline) == "frozen")

    def freeze(self, deadline: float) -> None:
        """Flush and freeze all file systems that can be. AgentError unless done by `deadline` (monotonic)."""
        if not self._execute("guest-fsfreeze-freeze", deadline):
            raise AgentError(f"{self._path}: the guest's agent found no file system to freeze")

    def thaw(self, deadline: float) -> None:
        """Undo `freeze`, also one that was given up and is still going on. AgentError."""
        self._execute("guest-fsfreeze-thaw", deadline)

    def close(self) -> None:
        """Let go of it, so that others may use it."""
        self._socket.close()

    def _sync(self, deadline: float) -> None:
        """Throw away what was said to an earlier client. The mark also ends whatever that had left half-said."""
        number = random.getrandbits(31)
        self._send(_MARK, "guest-sync-delimited", deadline, id=number)
        answer = None
        while answer != number:
            while _MARK not in self._buffer:
                self._receive("guest-sync-delimited", deadline)
            self._buffer = self._buffer.partition(_MARK)[2]
            answer = self._answer("guest-sync-delimited", deadline).get("return")

    def _execute(self, command: str, deadline: float) -> Any:
        self._send(b"", command, deadline)
        self._owed += 1
        said: dict[str, Any] = {}
        while self._owed:  # the last answer is ours; not every agent knows ids
            said = self._answer(command, deadline)
            self._owed -= 1
        if "error" in said:
            raise AgentError(f"{self._path}: {command}: {said['error'].get('desc')}")
        return said.get("return")

    def _send(self, before: bytes, command: str, deadline: float, **arguments: object) -> None:
        order = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(before + json.dumps(order).encode() + b"\n")
        except OSError as error:
            raise AgentError(f"{self._path}: {command}: {error}") from None

    def _answer(self, command: str, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._receive(command, deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def _receive(self, command: str, deadline: float) -> None:
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(65536)
        except TimeoutError:
            raise AgentError(f"{self._path}: the guest's agent did not answer {command} in time") from None
        except OSError as error:
            raise AgentError(f"{self._path}: {command}: {error}") from None
        if not more:
            raise AgentError(f"{self._path}: QEMU closed the connection at {command}")
        self._buffer += more
