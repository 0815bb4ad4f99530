"""The Wire port on TCP: length-prefixed messages, and the bare socket for what lies between them.

Messages are read by their exact length, so that a stream's first bytes stay in the socket for the child that gets it.
"""

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from holdfast.agent.ports import Handler, WireError
from holdfast.coordinator.grouped import TaskGroup
from holdfast.proto import transfer_pb2 as wire

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 150.0
"""Seconds to wait for a message: the other side may have a storage command to finish before it answers."""
LARGEST = 4 * 1024 * 1024
"""Bytes of a message."""
ACCEPT_AGAIN = 0.5
"""Seconds after which a connection is accepted again, where the system had no more descriptors."""
_DEAD_PEER_MS = 20_000
"""TCP_USER_TIMEOUT: data unacknowledged for so long means that the peer is gone."""

log = structlog.get_logger()

_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; Python has no name for it
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128  # offsets in struct tcp_info (linux/tcp.h), each a u64

M = TypeVar("M", bound=Message)


class SocketChannel(ABC):
    """One connection: its messages. How bytes get through is up to the class beneath."""

    node: str | None = None
    """Who the other side has proven to be; None where the link is trusted to tell."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    @abstractmethod
    async def _write(self, data: bytes) -> None:
        """Send all of it. OSError."""

    @abstractmethod
    async def _receive(self, count: int) -> bytes:
        """At least one byte and at most `count`; none at the end. OSError."""

    @abstractmethod
    def finish_sending(self) -> None:
        """No more bytes will follow from here."""

    async def send(self, message: wire.Request | wire.Answer | wire.Result) -> None:
        """Send one message."""
        data = message.SerializeToString()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._write(struct.pack(">I", len(data)) + data)
        except (OSError, TimeoutError) as error:
            raise WireError(f"the connection to {self.peer} broke: {str(error) or 'it takes no more'}") from None

    async def request(self) -> wire.Request:
        """Await a Request."""
        return await self._read(wire.Request())

    async def answer(self) -> wire.Answer:
        """Await an Answer."""
        return await self._read(wire.Answer())

    async def result(self) -> wire.Result:
        """Await a Result."""
        return await self._read(wire.Result())

    async def _read(self, message: M) -> M:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                (length,) = struct.unpack(">I", await self._exactly(4))
                if length > LARGEST:
                    raise WireError(f"{self.peer} sent a message of {length} bytes; is it a Holdfast agent?")
                message.ParseFromString(await self._exactly(length))
        except TimeoutError:
            raise WireError(f"{self.peer} did not answer within {ANSWER_TIMEOUT:.0f} s") from None
        except (OSError, DecodeError) as error:
            raise WireError(f"the connection to {self.peer} broke: {error}") from None
        return message

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await self._receive(count - len(data))
            if not piece:
                raise ConnectionResetError("it was closed")
            data += piece
        return data

    @property
    def peer(self) -> str:
        """Address and port of the other side."""
        return peer_of(self._socket)

    def transferred(self) -> int:
        """Bytes acknowledged by the other side plus bytes received from it."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            return 0
        (acked,) = struct.unpack_from("Q", info, _BYTES_ACKED)
        (received,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
        return int(acked) + int(received)

    def abort(self) -> None:
        """Shut both directions: also a child that holds the socket sees its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close our descriptor."""
        self._socket.close()


class TcpChannel(SocketChannel):
    """A bare connection, which a child process can be given."""

    async def _write(self, data: bytes) -> None:
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _receive(self, count: int) -> bytes:
        self._socket.setblocking(False)
        return await asyncio.get_running_loop().sock_recv(self._socket, count)

    def fileno(self) -> int:
        """The socket for a child process, which expects it to block. A stream's small writes are joined (Nagle)."""
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        return self._socket.fileno()

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[int]:
        """Where a child writes the stream to; at the end of the block so ends the stream."""
        yield self.fileno()
        self.finish_sending()

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncIterator[int]:
        """Where a child reads the stream from."""
        yield self.fileno()

    def finish_sending(self) -> None:
        """Send the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)


def peer_of(connection: socket.socket) -> str:
    """Address and port of the other side."""
    try:
        return ":".join(str(part) for part in connection.getpeername()[:2])
    except OSError:
        return "the other agent"


async def open_connection(address: str, port: int, pace: int | None) -> socket.socket:
    """Connect, within CONNECT_TIMEOUT. Raises WireError."""
    loop = asyncio.get_running_loop()
    error: Exception | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            for family, kind, protocol, _, target in await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM):
                connection = socket.socket(family, kind, protocol)
                try:
                    connection.setblocking(False)
                    if pace is not None:  # the kernel spaces the packets out: exact, and no byte passes through us
                        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("Q", pace))
                    await loop.sock_connect(connection, target)
                    return connection
                except OSError as reason:
                    connection.close()
                    error = reason
                except BaseException:
                    connection.close()
                    raise
    except (OSError, UnicodeError) as reason:  # UnicodeError: a host name with an empty or too long part
        error = reason
    raise WireError(f"{address}:{port} cannot be reached: {str(error or '') or 'no answer'}; does its agent run?")


async def listen(address: str, port: int, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
    """Accept connections until cancelled; each gets `serve` in a task of its own, and is closed after it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(128)
        async with TaskGroup() as group:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # accept(2): too many open files, or the peer has gone already
                    log.warning("a connection was not accepted", error=str(error))
                    await asyncio.sleep(ACCEPT_AGAIN)
                else:
                    group.create_task(_handle(connection, serve))


async def _handle(connection: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
    """One connection's failure leaves the others served (invariant 7)."""
    with connection:
        try:
            await serve(connection)
        except Exception:
            log.exception("a connection failed in a way that nobody foresaw")


class TcpWire:
    """Connections over plain TCP, for links that are trusted as a whole; others have `tls`."""

    async def connect(self, node: str, address: str, port: int, pace: int | None = None) -> TcpChannel:
        """Connect; that `node` answers there is believed."""
        return TcpChannel(await open_connection(address, port, pace))

    async def serve(self, address: str, port: int, handler: Handler) -> None:
        """Accept connections until cancelled."""
        await listen(address, port, lambda connection: handler(TcpChannel(connection)))
