"""The Wire port under mutual TLS 1.3. Guards that a peer is the node that it says it is.

1. No request of a peer is handled before its certificate has been checked: the cluster's authority, its dates, not
   revoked, the role `node`. Who it is (`Channel.node`) is taken from there.
2. A connection without TLS is taken only from, and made only to, addresses that the settings call trusted.
3. One thread at a time uses a connection's TLS: the loop for messages, the pump's while a stream runs.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

import structlog
from holdfast.agent.ports import Channel, Handler, Refused, WireError
from holdfast.agent.transfer import pump, tcp
from holdfast.agent.transfer.tcp import SocketChannel, TcpChannel
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.identity.tls_words import TLS_FAILED, explain
from holdfast.coordinator.identity.verify import Untrusted
from holdfast.proto import transfer_pb2 as wire

log = structlog.get_logger()

HANDSHAKE_TIMEOUT = 10.0
_GOODBYE = 2.0
"""Seconds for the other side to take note of why it was refused."""
_CLIENT_HELLO = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1: handshake). Ours, of a message's length, is 0."""
_NODES = frozenset({Role.NODE})

T = TypeVar("T")
Network = IPv4Network | IPv6Network


class TlsChannel(SocketChannel):
    """One connection under TLS; `node` has been checked."""

    def __init__(self, connection: ssl.SSLSocket, node: str) -> None:
        super().__init__(connection)
        self.node = node
        self._tls = connection
        self._pump: asyncio.Future[None] | None = None

    async def _write(self, data: bytes) -> None:
        self._join_writes(False)
        rest = memoryview(data)
        while rest:
            rest = rest[await self._tried(lambda: self._tls.send(rest)) :]  # noqa: B023 - called before it changes

    async def _receive(self, count: int) -> bytes:
        return await self._tried(lambda: self._tls.recv(count))

    def _join_writes(self, join: bool) -> None:
        """A stream's small writes are joined (Nagle), a message goes out at once."""
        self._tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not join)

    async def _tried(self, operation: Callable[[], T]) -> T:
        try:
            return await _retried(self._tls, operation)
        except ssl.SSLError as error:
            reason, words = explain(error)
            if reason != TLS_FAILED:
                raise Refused(reason, f"{self.peer}: {words}") from None
            raise

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[int]:
        """A pipe, and a thread that moves what comes out of it. That it could not shows in the result."""
        self._join_writes(True)
        source, sink = pump.pipe()
        self._pump = pump.start(lambda: pump.stream_out(source, self._tls))
        try:
            yield sink
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            os.close(sink)
            await self._pumped()

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncIterator[int]:
        """A pipe, and a thread that moves into it what arrives. A child that ends early ends the thread."""
        source, sink = pump.pipe()
        chunks = pump.Chunks(self._tls)
        self._pump = pump.start(lambda: pump.stream_in(self._tls, chunks, sink))
        try:
            yield source
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            os.close(source)
            await self._pumped()
        await self._skip(chunks)

    async def _skip(self, chunks: pump.Chunks) -> None:
        """What a child that was content has left of its stream, mostly its end. Raises WireError."""
        buffer = memoryview(bytearray(pump.CHUNK))
        try:
            async with asyncio.timeout(tcp.ANSWER_TIMEOUT):
                while not chunks.ended:
                    await _retried(self._tls, lambda: chunks.read_into(buffer))
        except (OSError, TimeoutError) as error:
            raise WireError(f"the connection to {self.peer} broke: {str(error) or 'no end came'}") from None

    async def _pumped(self) -> None:
        """Wait for the thread while it gets on. Where it fails, nothing more can be said: the connection ends."""
        thread, self._pump = self._pump, None
        if thread is None:
            return
        try:
            moved = -1
            while not thread.done() and moved != (moved := self.transferred()):
                await asyncio.wait((thread,), timeout=tcp.ANSWER_TIMEOUT)
        finally:
            stuck = not thread.done()
            if stuck:
                self.abort()
                await _outlive(thread)
        if stuck or thread.exception() is not None:
            self.abort()

    def finish_sending(self) -> None:
        """Nothing to do: the pump has said the end."""

    def abort(self) -> None:
        """Shut the connection beneath TLS: a thread in the midst of it sees its end, and its pipe is closed."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._tls, socket.SHUT_RDWR)  # not SSLSocket's own: it would go on without TLS

    async def close(self) -> None:
        """Close our descriptor, once no thread uses it."""
        if self._pump is not None:
            self.abort()
            await _outlive(self._pump)
        await super().close()


class TlsWire:
    """Connections between nodes that prove who they are; without TLS only on `trusted` links."""

    def __init__(self, credentials: Credentials, trusted: Sequence[Network] = ()) -> None:
        self._credentials = credentials
        self._trusted = tuple(trusted)

    async def connect(self, node: str, address: str, port: int, pace: int | None = None) -> SocketChannel:
        """Connect; Refused where it is not `node` that answers, or where certificates are not accepted."""
        connection = await tcp.open_connection(address, port, pace)
        try:
            if self._trusts(connection):
                return TcpChannel(connection)
            tls = await self._handshake(connection, self._credentials.client, server_side=False)
            connection = tls
            try:
                found = self._credentials.peer(tls.getpeercert(binary_form=True), _NODES)
            except Untrusted as error:
                raise Refused(error.reason, f"{address}:{port}: {error}") from None
            if found.name != node:
                message = f"at {address}:{port} answers {found.name}, not {node}: correct the address of a Node"
                raise Refused("WrongNode", message)
            return TlsChannel(tls, found.name)
        except ssl.SSLError as error:
            connection.close()
            reason, words = explain(error)
            raise Refused(reason, f"{address}:{port} ({node}): {words}") from None
        except (OSError, TimeoutError) as error:
            connection.close()
            said = str(error) or f"no answer within {HANDSHAKE_TIMEOUT:.0f} s"
            message = f"{address}:{port} ({node}) ended the handshake: {said}. Has its agent a certificate? See its log"
            raise WireError(message) from None
        except BaseException:
            connection.close()
            raise

    async def serve(self, address: str, port: int, handler: Handler) -> None:
        """Accept connections until cancelled."""

        async def accept(connection: socket.socket) -> None:
            try:
                await self._accept(connection, handler)
            except (OSError, TimeoutError, WireError) as error:
                log.info("connection lost", error=str(error))

        await tcp.listen(address, port, accept)

    async def _accept(self, connection: socket.socket, handler: Handler) -> None:
        connection.setblocking(False)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            await _ready(connection, writing=False)
        first = connection.recv(1, socket.MSG_PEEK)
        if not first:
            return
        if first != _CLIENT_HELLO:
            plain = TcpChannel(connection)
            if self._trusts(connection):
                await handler(plain)
            else:
                message = f"{self._credentials.identity.name} takes connections from nodes with a certificate alone"
                await self._refuse(plain, "PlainRefused", f"{message}. Give this one its own: holdfast join")
            return
        where = tcp.peer_of(connection)
        raw = connection.dup()  # the handshake's socket takes the descriptor over, and closes it when it fails
        with raw:
            try:
                tls = await self._handshake(connection, self._credentials.server, server_side=True)
            except ssl.SSLError as error:
                reason, words = explain(error)
                log.warning("refused", peer=where, reason=reason, error=words)
                await _part(raw)
                return
        channel = TlsChannel(tls, "")
        try:
            channel.node = self._credentials.peer(tls.getpeercert(binary_form=True), _NODES).name
            await handler(channel)
        except Untrusted as error:
            await self._refuse(channel, error.reason, f"{self._credentials.identity.name}: {error}")
        finally:
            await channel.close()

    async def _handshake(
        self, connection: socket.socket, context: ssl.SSLContext, *, server_side: bool
    ) -> ssl.SSLSocket:
        """OSError (ssl.SSLError among them) or TimeoutError; the socket is then closed."""
        connection.setblocking(False)
        tls = context.wrap_socket(connection, server_side=server_side, do_handshake_on_connect=False)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await _retried(tls, tls.do_handshake)
        except BaseException:
            tls.close()
            raise
        return tls

    async def _refuse(self, channel: Channel, reason: str, message: str) -> None:
        """Answer whatever is asked with a refusal."""
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            request = await channel.request()
            log.warning("refused", node=request.claim.node, reason=reason, error=message)
            await channel.send(wire.Answer(refused=message, reason=reason))

    def _trusts(self, connection: socket.socket) -> bool:
        address = ip_address(connection.getpeername()[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)


async def _retried(tls: ssl.SSLSocket, operation: Callable[[], T]) -> T:
    """An operation on a socket that does not block, as often as TLS has to wait for the other side."""
    while True:
        try:
            return operation()
        except ssl.SSLWantReadError:
            await _ready(tls, writing=False)
        except ssl.SSLWantWriteError:
            await _ready(tls, writing=True)


async def _ready(connection: socket.socket, *, writing: bool) -> None:
    """Until the socket can be read from, or written to."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    descriptor = connection.fileno()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


async def _part(connection: socket.socket) -> None:
    """Let the other side read the alert: closing with its bytes unread would reset the connection under it."""
    with contextlib.suppress(OSError, TimeoutError):
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_GOODBYE):
            while await asyncio.get_running_loop().sock_recv(connection, 65536):
                pass


async def _outlive(thread: asyncio.Future[None]) -> None:
    """Wait for a thread whose connection has been shut, however often this task is cancelled meanwhile."""
    cancelled = False
    while not thread.done():
        try:
            await asyncio.wait((thread,))
        except asyncio.CancelledError:
            cancelled = True
    if not thread.cancelled():
        thread.exception()
    if cancelled:
        raise asyncio.CancelledError
