"""Moves a stream between TLS and a child's pipe, in a thread of its own: at these rates the loop would do nothing else.

Between the messages a stream is a row of chunks, each with its length (4 bytes, big endian), and a length of 0 ends it.
So its end is said, not guessed from a connection that closed, and messages can follow. The socket never blocks: a
thread waits in poll(2), where it also sees that its child has gone.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CHUNK = 256 * 1024
_PIPE = 1024 * 1024
_HEADER = struct.Struct(">I")


def pipe() -> tuple[int, int]:
    """Read end and write end, as large as the system gives us."""
    ends = os.pipe()
    with contextlib.suppress(OSError):  # fcntl(2): beyond /proc/sys/fs/pipe-max-size for who may not
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends


def start(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run blocking work in a thread that ends with it."""
    pool = ThreadPoolExecutor(1, "stream")
    try:
        return asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)


def stream_out(source: int, tls: ssl.SSLSocket) -> None:
    """From a pipe into TLS until the pipe ends; closes the pipe. OSError."""
    buffer = memoryview(bytearray(_HEADER.size + CHUNK))
    with open(source, "rb", buffering=0) as pipe_end:
        while count := pipe_end.readinto(buffer[_HEADER.size :]):
            _HEADER.pack_into(buffer, 0, count)
            _send_all(tls, buffer[: _HEADER.size + count])
    _send_all(tls, memoryview(_HEADER.pack(0)))


def _send_all(tls: ssl.SSLSocket, data: memoryview) -> None:
    while data:
        try:
            data = data[tls.send(data) :]
        except ssl.SSLWantWriteError:
            _wait(tls.fileno(), select.POLLOUT)


class Chunks:
    """The reading side of a stream."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._left = 0
        self._header = b""
        self.ended = False

    def read_into(self, buffer: memoryview) -> int:
        """Some bytes; 0 once it has ended. SSLWantReadError where none are there; OSError."""
        while not self._left and not self.ended:
            piece = self._tls.recv(_HEADER.size - len(self._header))
            if not piece:
                raise ConnectionResetError("it was closed in the middle of the stream")
            self._header += piece
            if len(self._header) == _HEADER.size:
                (self._left,) = _HEADER.unpack(self._header)
                self._header = b""
                self.ended = self._left == 0
        if self.ended:
            return 0
        count = self._tls.recv_into(buffer[: self._left])
        if not count:
            raise ConnectionResetError("it was closed in the middle of the stream")
        self._left -= count
        return count


def stream_in(tls: ssl.SSLSocket, chunks: Chunks, sink: int) -> None:
    """From TLS into a pipe until the stream ends, or until nobody reads the pipe; closes the pipe. OSError."""
    buffer = memoryview(bytearray(CHUNK))
    with open(sink, "wb", buffering=0) as pipe_end:
        while not chunks.ended:
            filled, waits = _fill(chunks, buffer)
            try:
                _write_all(pipe_end.fileno(), buffer[:filled])
            except BrokenPipeError:
                return
            if waits and not _wait(tls.fileno(), select.POLLIN, unless_broken=sink):
                return


def _fill(chunks: Chunks, buffer: memoryview) -> tuple[int, bool]:
    """As much as is there and fits (each record of TLS has 16 KiB at most); whether there was no more."""
    filled = 0
    while filled < len(buffer) and not chunks.ended:
        try:
            filled += chunks.read_into(buffer[filled:])
        except ssl.SSLWantReadError:
            return filled, True
    return filled, False


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _wait(descriptor: int, event: int, unless_broken: int | None = None) -> bool:
    """Until the socket is ready; False if the pipe's reader went first (poll(2): POLLERR on its write end)."""
    poll = select.poll()
    poll.register(descriptor, event)
    if unless_broken is not None:
        poll.register(unless_broken, 0)
    return all(ready != unless_broken for ready, _ in poll.poll())
