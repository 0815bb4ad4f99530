"""The agents' connections on loopback, with real sockets and real children."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from holdfast.agent.ports import Channel, Handler, Wire, WireError
from holdfast.agent.transfer import tcp
from holdfast.agent.transfer.tcp import TcpChannel, TcpWire
from holdfast.proto import transfer_pb2 as wire

HOST = "127.0.0.1"
MIB = 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def pair(pace: int | None = None) -> AsyncIterator[tuple[TcpChannel, TcpChannel]]:
    """(who connected, who accepted)."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        here = await TcpWire().connect("beta", HOST, listener.getsockname()[1], pace)
        there = TcpChannel(listener.accept()[0])
        try:
            yield here, there
        finally:
            await here.close()
            await there.close()


@contextlib.contextmanager
def raw(channel: TcpChannel) -> Iterator[socket.socket]:
    """The bare socket of one end, to write into as no Holdfast agent would."""
    with socket.socket(fileno=os.dup(channel.fileno())) as bare:
        yield bare


def request(text: str) -> wire.Request:
    return wire.Request(claim=wire.Claim(node="alpha", vmid=101), send=wire.SendRequest(dataset=text))


def framed(message: wire.Request) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">I", len(data)) + data


async def child(*argv: str, stdin: int, stdout: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=stdout)


async def output(process: asyncio.subprocess.Process) -> bytes:
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    return out


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
async def test_a_message_arrives_as_it_was_sent(size: int) -> None:
    async with pair() as (here, there):
        sent = request("x" * size)
        async with asyncio.TaskGroup() as group:
            group.create_task(here.send(sent))
            arrived = group.create_task(there.request())
        assert arrived.result() == sent


async def test_a_message_that_comes_byte_by_byte_is_one_message() -> None:
    async with pair() as (here, there):
        sent = request("tank/vm-101-disk-0")
        arriving = asyncio.create_task(there.request())
        with raw(here) as bare:
            for byte in framed(sent):
                bare.send(bytes([byte]))
                await asyncio.sleep(0.001)
        assert await arriving == sent


async def test_messages_that_come_at_once_are_two_messages() -> None:
    async with pair() as (here, there):
        with raw(here) as bare:
            bare.sendall(framed(request("one")) + framed(request("two")))
        assert (await there.request()).send.dataset == "one"
        assert (await there.request()).send.dataset == "two"


async def test_what_follows_a_message_stays_in_the_socket_for_the_child_that_gets_it() -> None:
    async with pair() as (here, there):
        stream = os.urandom(200_000)
        with raw(here) as bare:
            bare.sendall(framed(request("x")) + stream)
        await there.request()
        here.finish_sending()
        cat = await child("cat", stdin=there.fileno(), stdout=asyncio.subprocess.PIPE)
        assert await output(cat) == stream


async def test_a_child_that_reads_its_stream_exactly_leaves_the_next_message_to_us() -> None:
    async with pair() as (here, there):
        stream = os.urandom(1000)
        with raw(here) as bare:
            bare.sendall(framed(request("before")) + stream + framed(request("after")))
        assert (await there.request()).send.dataset == "before"
        # one byte a read, as head -c would buffer
        dd = await child(
            "dd", "bs=1", "count=1000", "status=none", stdin=there.fileno(), stdout=asyncio.subprocess.PIPE
        )
        assert await output(dd) == stream
        assert (await there.request()).send.dataset == "after"


async def test_a_child_at_each_end_moves_a_stream_and_then_the_result_comes_back() -> None:
    async with pair() as (here, there):
        await here.send(request("x"))
        await there.request()
        await there.send(wire.Answer())
        await here.answer()
        source = await child(
            "head", "-c", str(20 * MIB), "/dev/zero", stdin=asyncio.subprocess.DEVNULL, stdout=here.fileno()
        )
        sink = await child("wc", "-c", stdin=there.fileno(), stdout=asyncio.subprocess.PIPE)
        await source.wait()
        here.finish_sending()
        assert await output(sink) == b"%d\n" % (20 * MIB)
        await there.send(wire.Result(guid=2**64 - 1))
        assert (await here.result()).guid == 2**64 - 1
        assert here.transferred() >= 20 * MIB
        assert there.transferred() >= 20 * MIB


async def test_an_abort_ends_a_child_that_reads() -> None:
    async with pair() as (_, there):
        cat = await child("cat", stdin=there.fileno(), stdout=asyncio.subprocess.PIPE)
        await asyncio.sleep(0.1)
        there.abort()
        assert await output(cat) == b""


@pytest.mark.parametrize("rate", [MIB, 4 * MIB])
async def test_a_pace_bounds_what_a_child_can_send(rate: int) -> None:
    async with pair(rate) as (here, there):
        started = time.monotonic()
        size = 2 * rate
        source = await child(
            "head", "-c", str(size), "/dev/zero", stdin=asyncio.subprocess.DEVNULL, stdout=here.fileno()
        )
        sink = await child("head", "-c", str(size), stdin=there.fileno(), stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(20):
            await asyncio.gather(source.wait(), sink.wait())
        assert time.monotonic() - started > 1.5


@pytest.mark.parametrize("rate", [1024, 2**31 - 1, 2**31, 2**32, 2**40])
async def test_every_bandwidth_that_a_policy_may_have_is_taken(rate: int) -> None:
    async with pair(rate) as (here, _):
        with raw(here) as bare:
            (set_to,) = struct.unpack("Q", bare.getsockopt(socket.SOL_SOCKET, tcp._SO_MAX_PACING_RATE, 8))
        assert set_to == rate


@pytest.mark.parametrize("address", [HOST, "no-such-host.invalid", "a..b", "a" * 64 + ".example", "::1"])
async def test_an_agent_that_cannot_be_reached_is_named(address: str) -> None:
    with pytest.raises(WireError, match="cannot be reached") as refused:
        await TcpWire().connect("beta", address, free_port())
    assert address in str(refused.value)
    assert "does its agent run?" in str(refused.value)


async def test_an_agent_that_does_not_answer_the_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        address = full.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # the backlog is full: the kernel drops what comes now
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                assert other.connect_ex(address) in (0, errno.EINPROGRESS)
            with pytest.raises(WireError, match="cannot be reached"):
                await TcpWire().connect("beta", *address)


@pytest.mark.parametrize(
    ("garbage", "says"),
    [
        (b"\xff\xff\xff\xff", "is it a Holdfast agent"),
        (struct.pack(">I", tcp.LARGEST + 1), "is it a Holdfast agent"),
        (b"GET / HTTP/1.1\r\n\r\n", "is it a Holdfast agent"),
        (struct.pack(">I", 4) + b"\xff\xff\xff\xff", "broke"),
        (struct.pack(">I", 100) + b"short", "closed"),
        (b"\0\0", "closed"),
        (b"", "closed"),
    ],
)
async def test_garbage_is_an_error_of_the_connection(garbage: bytes, says: str) -> None:
    async with pair() as (here, there):
        with raw(here) as bare:
            bare.sendall(garbage)
        here.finish_sending()
        with pytest.raises(WireError, match=says):
            async with asyncio.timeout(5):
                await there.request()


async def test_silence_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "ANSWER_TIMEOUT", 0.2)
    async with pair() as (_, there):
        with pytest.raises(WireError, match="did not answer"):
            await there.request()


async def test_a_peer_that_takes_nothing_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "ANSWER_TIMEOUT", 0.5)
    async with pair() as (here, _):
        with pytest.raises(WireError, match="takes no more"):
            await send_for_ever(here)


async def send_for_ever(channel: TcpChannel) -> None:
    while True:
        await channel.send(request("x" * MIB))


async def test_a_peer_that_resets_the_connection_is_an_error_on_both_ways() -> None:
    async with pair() as (here, there):
        with raw(there) as bare:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await there.close()
        with pytest.raises(WireError, match="broke"):
            await here.answer()
        with pytest.raises(WireError, match="broke"):
            await send_for_ever(here)
        assert here.transferred() >= 0
        here.finish_sending()
        here.abort()


async def exchange(port: int, text: str) -> str:
    channel = await TcpWire().connect("beta", HOST, port)
    try:
        await channel.send(request(text))
        return (await channel.answer()).refused
    finally:
        await channel.close()


async def echo(channel: Channel) -> None:
    with contextlib.suppress(WireError):
        asked = await channel.request()
        await channel.send(wire.Answer(refused=asked.send.dataset))


@contextlib.asynccontextmanager
async def serving(over: Wire, handler: Handler = echo) -> AsyncIterator[int]:
    """A port on which `handler` serves. The server must live still when the test is done."""
    port = free_port()
    server = asyncio.create_task(over.serve(HOST, port, handler))
    try:
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection((HOST, port)).close()
                    break
                await asyncio.sleep(0.01)
        yield port
        assert not server.done(), "the server ended"
    finally:
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server


async def test_connections_are_served_side_by_side() -> None:
    waiting = asyncio.Event()

    async def handler(channel: Channel) -> None:
        if not waiting.is_set():
            waiting.set()
            await asyncio.sleep(60)
        await echo(channel)

    async with serving(TcpWire(), handler) as port:
        assert await asyncio.gather(exchange(port, "one"), exchange(port, "two")) == ["one", "two"]


def failing_with(error: Exception) -> Handler:
    async def failing(channel: Channel) -> None:
        with contextlib.suppress(WireError):
            if (await channel.request()).send.dataset == "bad":
                raise error
            await channel.send(wire.Answer(refused="good"))

    return failing


@pytest.mark.parametrize("error", [ValueError("unforeseen"), ExceptionGroup("several", [OSError("one")])])
async def test_one_connection_that_fails_in_a_way_nobody_foresaw_leaves_the_others_served(error: Exception) -> None:
    async with serving(TcpWire(), failing_with(error)) as port:
        with pytest.raises(WireError):
            await exchange(port, "bad")
        assert await exchange(port, "x") == "good"


async def test_a_server_without_a_free_descriptor_serves_again_when_there_is_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(TcpWire()) as port:
        with socket.create_connection((HOST, port)) as waiting:
            lowest = os.dup(waiting.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await asyncio.sleep(0.1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with asyncio.timeout(5):
            assert await exchange(port, "x") == "x"


async def test_a_server_that_stops_closes_its_connections() -> None:
    async def handler(channel: Channel) -> None:
        await asyncio.sleep(60)

    async with serving(TcpWire(), handler) as port:
        channel = await TcpWire().connect("beta", HOST, port)
        await asyncio.sleep(0.1)
    with pytest.raises(WireError, match="broke"):
        async with asyncio.timeout(5):
            await channel.answer()
    await channel.close()
