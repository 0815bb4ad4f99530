"""The agents' connections under mutual TLS: real sockets, real certificates, real children."""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from holdfast.agent.ports import Channel, Refused, WireError
from holdfast.agent.transfer import tcp, tls
from holdfast.agent.transfer.receiver import Receiver
from holdfast.agent.transfer.tcp import TcpChannel, TcpWire
from holdfast.agent.transfer.tls import TlsChannel, TlsWire
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Role
from holdfast.proto import transfer_pb2 as wire
from integration.certificates import Certificates
from integration.test_tcp import child, echo, output, request, serving

HOST = "127.0.0.1"
MIB = 2**20
LOOPBACK = ip_network("127.0.0.0/8")
LONG_AGO = timedelta(days=400)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def alpha(certificates: Certificates) -> Credentials:
    return certificates.issue("alpha")


@pytest.fixture
def beta(certificates: Certificates) -> Credentials:
    return certificates.issue("beta")


async def exchange(client: TlsWire | TcpWire, port: int, text: str = "x", node: str = "beta") -> wire.Answer:
    channel = await client.connect(node, HOST, port)
    try:
        await channel.send(request(text))
        return await channel.answer()
    finally:
        await channel.close()


class Peers:
    """Two ends of one connection, made over a server."""

    def __init__(self, here: TlsChannel, there: TlsChannel) -> None:
        self.here, self.there = here, there


@contextlib.asynccontextmanager
async def pair(alpha: Credentials, beta: Credentials, pace: int | None = None) -> AsyncIterator[Peers]:
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    finished = asyncio.Event()

    async def handler(channel: Channel) -> None:
        accepted.set_result(channel)
        await finished.wait()

    async with serving(TlsWire(beta), handler) as port:
        here = await TlsWire(alpha).connect("beta", HOST, port, pace)
        there = await accepted
        assert isinstance(here, TlsChannel)
        assert isinstance(there, TlsChannel)
        try:
            yield Peers(here, there)
        finally:
            finished.set()
            await here.close()
            await there.close()


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
async def test_a_message_arrives_as_it_was_sent_and_both_know_from_whom(
    alpha: Credentials, beta: Credentials, size: int
) -> None:
    async with pair(alpha, beta) as peers:
        sent = request("x" * size)
        async with asyncio.TaskGroup() as group:
            group.create_task(peers.here.send(sent))
            arrived = group.create_task(peers.there.request())
        assert arrived.result() == sent
        assert (peers.here.node, peers.there.node) == ("beta", "alpha")
        assert peers.here._tls.version() == "TLSv1.3"


async def send_from(argv: list[str], channel: TlsChannel) -> int:
    async with channel.sending() as descriptor:
        source = await child(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor)
        return await source.wait()


async def receive_into(argv: list[str], channel: TlsChannel) -> bytes:
    async with channel.receiving() as descriptor:
        return await output(await child(*argv, stdin=descriptor, stdout=asyncio.subprocess.PIPE))


@pytest.mark.parametrize("size", [0, 1, 16_384, 262_144, 20 * MIB + 7])
async def test_a_stream_between_two_children_arrives_whole_and_messages_go_on_after_it(
    alpha: Credentials, beta: Credentials, size: int, tmp_path: Path
) -> None:
    (tmp_path / "stream").write_bytes(os.urandom(size))
    async with pair(alpha, beta) as peers, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            group.create_task(send_from(["cat", str(tmp_path / "stream")], peers.here))
            arrived = group.create_task(receive_into(["sha256sum"], peers.there))
        digest = hashlib.sha256((tmp_path / "stream").read_bytes()).hexdigest()
        assert arrived.result().decode() == f"{digest}  -\n"
        await peers.there.send(wire.Result(guid=2**64 - 1))
        assert (await peers.here.result()).guid == 2**64 - 1
        assert peers.here.transferred() >= size
        assert peers.there.transferred() >= size
        await peers.here.send(request("again"))
        assert (await peers.there.request()).send.dataset == "again"


async def test_a_receiver_that_fails_early_can_still_say_why(alpha: Credentials, beta: Credentials) -> None:
    async with pair(alpha, beta) as peers, asyncio.timeout(20):

        async def receive() -> None:
            with contextlib.suppress(ZeroDivisionError):
                async with peers.there.receiving() as descriptor:
                    failing = await child("head", "-c", "100000", stdin=descriptor, stdout=asyncio.subprocess.DEVNULL)
                    await failing.wait()
                    raise ZeroDivisionError
            await peers.there.send(wire.Result(failed="the pool is full"))
            await peers.there.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(receive())
            sent = group.create_task(send_from(["cat", "/dev/zero"], peers.here))
        assert sent.result() != 0, "the sending child saw that nobody reads any more"
        assert (await peers.here.result()).failed == "the pool is full"


async def test_a_child_that_has_had_enough_leaves_the_rest_of_its_stream_unread(
    alpha: Credentials, beta: Credentials
) -> None:
    async with pair(alpha, beta) as peers, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            group.create_task(send_from(["head", "-c", str(5 * MIB), "/dev/zero"], peers.here))
            arrived = group.create_task(receive_into(["sh", "-c", "head -c 1000 | wc -c"], peers.there))
        assert arrived.result() == b"1000\n"
        await peers.there.send(wire.Result(guid=1))
        assert (await peers.here.result()).guid == 1


async def test_what_a_child_leaves_in_its_pipe_is_waited_for_while_it_moves_and_given_up_when_it_does_not(
    alpha: Credentials, beta: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "ANSWER_TIMEOUT", 0.4)
    async with pair(alpha, beta, MIB // 2) as peers, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            group.create_task(send_from(["head", "-c", str(MIB), "/dev/zero"], peers.here))
            arrived = group.create_task(receive_into(["wc", "-c"], peers.there))
        assert arrived.result() == b"%d\n" % MIB
    async with pair(alpha, beta) as peers, asyncio.timeout(20):
        async with peers.here.sending() as descriptor:  # nobody reads
            os.set_blocking(descriptor, False)
            for _ in range(20):
                with contextlib.suppress(BlockingIOError):
                    while os.write(descriptor, bytes(MIB)):
                        pass
                await asyncio.sleep(0.02)
        with pytest.raises(WireError, match="broke"):
            await peers.here.result()


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


async def test_a_stream_that_is_cancelled_at_either_end_leaves_no_thread_and_no_child(
    alpha: Credentials, beta: Credentials
) -> None:
    async def run(channel: TlsChannel, receives: bool) -> None:
        block = channel.receiving() if receives else channel.sending()
        async with block as descriptor:
            pipe = {"stdin": descriptor} if receives else {"stdout": descriptor}
            null = asyncio.subprocess.DEVNULL
            process = await child("sleep", "100", **{"stdin": null, "stdout": null} | pipe)
            try:
                await process.wait()
            finally:
                process.kill()
                await process.wait()

    before = len(os.listdir("/proc/self/fd"))
    for receives in (False, True):
        async with pair(alpha, beta) as peers:
            task = asyncio.create_task(run(peers.there if receives else peers.here, receives))
            await asyncio.sleep(0.2)
            assert len(pumps()) == 1
            task.cancel()
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(WireError):
                await (peers.here if receives else peers.there).result()
    await asyncio.sleep(0.1)
    assert pumps() == []
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_an_abort_in_the_middle_of_a_stream_ends_the_children_at_both_ends(
    alpha: Credentials, beta: Credentials
) -> None:
    async with pair(alpha, beta) as peers, asyncio.timeout(20):
        sending = asyncio.create_task(send_from(["cat", "/dev/zero"], peers.here))
        receiving = asyncio.create_task(receive_into(["wc", "-c"], peers.there))
        await asyncio.sleep(0.2)
        peers.there.abort()
        assert await sending != 0
        with pytest.raises(WireError, match="broke"):
            await receiving
        with pytest.raises(WireError, match="broke"):
            await peers.here.result()


async def test_a_stalled_link_shows_no_progress_and_a_moving_one_does(alpha: Credentials, beta: Credentials) -> None:
    async with pair(alpha, beta) as peers, asyncio.timeout(20):
        sending = asyncio.create_task(send_from(["cat", "/dev/zero"], peers.here))
        await asyncio.sleep(0.5)  # nobody reads: what fits into buffers has gone
        stalled = peers.here.transferred()
        await asyncio.sleep(0.3)
        assert peers.here.transferred() == stalled
        receiving = asyncio.create_task(receive_into(["wc", "-c"], peers.there))
        await asyncio.sleep(0.3)
        assert peers.here.transferred() > stalled
        peers.here.abort()
        await asyncio.gather(sending, receiving, return_exceptions=True)


async def test_a_pace_bounds_a_stream_under_tls_too(alpha: Credentials, beta: Credentials) -> None:
    async with pair(alpha, beta, MIB) as peers, asyncio.timeout(20):
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            group.create_task(send_from(["head", "-c", str(2 * MIB), "/dev/zero"], peers.here))
            group.create_task(receive_into(["wc", "-c"], peers.there))
        assert asyncio.get_running_loop().time() - began > 1.5


async def refusal(client: TlsWire | TcpWire, port: int, node: str = "beta") -> Refused:
    """How the connecting side is told: while it connects, or by the answer to its request."""
    try:
        answer = await exchange(client, port, node=node)
    except Refused as error:
        return error
    return Refused(answer.reason, answer.refused)


async def test_another_node_than_the_one_that_was_meant_is_not_spoken_to(alpha: Credentials, beta: Credentials) -> None:
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(alpha), port, node="gamma")
    assert told.reason == "WrongNode"
    assert f"at {HOST}:{port} answers beta, not gamma" in str(told)


@pytest.mark.parametrize(
    ("role", "word"), [(Role.OPERATOR, "WrongRole"), (Role.COORDINATOR, "WrongRole"), (Role.MEMBER, "WrongRole")]
)
async def test_a_certificate_of_another_role_takes_no_part_in_transfers(
    certificates: Certificates, beta: Credentials, role: Role, word: str
) -> None:
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(certificates.issue("alpha", role)), port)
    assert told.reason == word
    assert f"that of {role} alpha; here only a node is answered" in str(told)


async def test_an_expired_certificate_is_refused_at_either_end_and_says_so(
    certificates: Certificates, alpha: Credentials, beta: Credentials
) -> None:
    old = certificates.issue("gamma", ago=LONG_AGO)
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(old), port)
    assert told.reason == "CertificateExpired"
    assert "refused our certificate as expired. Renew it here: holdfast renew" in str(told)
    async with serving(TlsWire(old)) as port:
        told = await refusal(TlsWire(alpha), port, node="gamma")
    assert told.reason == "CertificateExpired"
    assert "its certificate has expired. Renew it there: holdfast renew" in str(told)


async def test_a_certificate_that_is_not_valid_yet_points_at_the_clocks(
    certificates: Certificates, alpha: Credentials
) -> None:
    early = certificates.issue("gamma", ago=timedelta(hours=-5))
    async with serving(TlsWire(early)) as port:
        told = await refusal(TlsWire(alpha), port, node="gamma")
    assert told.reason == "ClockDiffers"
    assert "Compare the machines' clocks" in str(told)


async def test_a_revoked_certificate_is_refused_at_either_end_and_says_so(
    certificates: Certificates, alpha: Credentials, beta: Credentials
) -> None:
    beta.revoke(certificates.revocation_list(alpha))
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(alpha), port)
    assert told.reason == "CertificateRevoked"
    assert "beta: the certificate of node alpha (serial " in str(told)
    async with serving(TlsWire(alpha)) as port:
        told = await refusal(TlsWire(beta), port, node="alpha")
    assert told.reason == "CertificateRevoked"
    assert "holdfast ca token alpha" in str(told)


@pytest.mark.parametrize("cluster", ["default", "another"])
async def test_a_certificate_of_another_authority_is_refused_at_either_end_and_says_so(
    tmp_path: Path, alpha: Credentials, beta: Credentials, cluster: str
) -> None:
    foreign = Certificates(tmp_path / "foreign", cluster).issue("alpha")
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(foreign), port)
    assert told.reason == "ForeignCertificate"
    assert "signed by" in str(told)
    async with serving(TlsWire(foreign)) as port:
        told = await refusal(TlsWire(alpha), port, node="alpha")
    assert told.reason == "ForeignCertificate"
    assert "signed by" in str(told)


async def test_a_server_learns_why_in_its_log_when_it_refuses_a_foreign_certificate(
    tmp_path: Path, beta: Credentials, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = Certificates(tmp_path / "foreign", "another").issue("alpha")
    foreign.client.verify_mode = ssl.CERT_NONE  # it takes anybody; nobody takes it
    async with serving(TlsWire(beta)) as port:
        told = await refusal(TlsWire(foreign), port)
    assert told.reason in ("ForeignCertificate", "NoCertificate")
    said = capsys.readouterr().out
    assert "refused" in said
    assert "ForeignCertificate" in said


async def test_a_peer_without_tls_is_refused_in_words_that_it_can_read(beta: Credentials) -> None:
    async with serving(TlsWire(beta)) as port:
        answer = await exchange(TcpWire(), port)
    assert answer.reason == "PlainRefused"
    assert "beta takes connections from nodes with a certificate alone" in answer.refused


async def test_a_peer_that_expects_no_tls_is_named_as_such(alpha: Credentials) -> None:
    async with serving(TcpWire()) as port:
        with pytest.raises((WireError, Refused), match="Has its agent a certificate"):
            await exchange(TlsWire(alpha), port)


async def test_a_link_that_is_trusted_has_the_bare_socket_and_one_that_is_not_has_none(
    alpha: Credentials, beta: Credentials
) -> None:
    kinds: list[str] = []

    async def handler(channel: Channel) -> None:
        kinds.append(type(channel).__name__)
        assert (channel.node is None) == isinstance(channel, TcpChannel)
        await echo(channel)

    async with serving(TlsWire(beta, [LOOPBACK]), handler) as port:
        assert (await exchange(TlsWire(alpha, [LOOPBACK]), port)).refused == "x"
        assert (await exchange(TlsWire(alpha), port)).refused == "x"
    assert kinds == ["TcpChannel", "TlsChannel"]


async def test_certificates_that_are_replaced_count_at_the_next_connection(
    certificates: Certificates, beta: Credentials
) -> None:
    old = certificates.issue("alpha", ago=LONG_AGO)
    client = TlsWire(old)
    async with serving(TlsWire(beta)) as port:
        assert (await refusal(client, port)).reason == "CertificateExpired"
        certificates.issue("alpha")
        assert (await exchange(client, port)).refused == "x"


async def test_a_half_written_certificate_leaves_the_last_one_in_use(alpha: Credentials, beta: Credentials) -> None:
    client = TlsWire(alpha)
    alpha._files[1].write_text("-----BEGIN CERTIFICATE-----\nMII")
    async with serving(TlsWire(beta)) as port:
        assert (await exchange(client, port)).refused == "x"


async def test_a_peer_that_hangs_in_the_handshake_holds_nobody_up_and_is_let_go(
    alpha: Credentials, beta: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.5)
    async with serving(TlsWire(beta)) as port:
        hanging = []
        for first in (b"", b"\x16", b"\x16\x03\x01"):
            hanging.append(socket.create_connection((HOST, port)))
            hanging[-1].sendall(first)
        assert (await exchange(TlsWire(alpha), port)).refused == "x"
        loop = asyncio.get_running_loop()
        for connection in hanging:
            connection.setblocking(False)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(connection, 1) == b""
            connection.close()


async def test_a_link_that_is_cut_in_the_middle_of_a_stream_is_not_a_whole_stream(
    alpha: Credentials, beta: Credentials
) -> None:
    """Whoever is in the way can close a connection, but cannot make a part look like the whole."""
    accepted: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(channel: Channel) -> None:
        assert isinstance(channel, TlsChannel)
        try:
            await receive_into(["cat"], channel)
        except WireError as error:
            accepted.set_result(str(error))

    async with serving(TlsWire(beta), handler) as port:
        channel = await TlsWire(alpha).connect("beta", HOST, port)
        assert isinstance(channel, TlsChannel)
        with os.fdopen(os.dup(channel._tls.fileno()), "wb"):
            async with channel.sending() as descriptor:
                os.write(descriptor, b"x" * 100_000)
                await asyncio.sleep(0.2)
                socket.socket.shutdown(channel._tls, socket.SHUT_WR)
        async with asyncio.timeout(5):
            assert "broke" in await accepted
        await channel.close()


async def test_bytes_on_the_link_show_nothing_of_the_stream(alpha: Credentials, beta: Credentials) -> None:
    secret = b"what is on the guest's disk " * 100
    async with pair(alpha, beta) as peers, asyncio.timeout(10):
        async with peers.here.sending() as descriptor:
            os.write(descriptor, secret)
        with socket.socket(fileno=os.dup(peers.there._tls.fileno())) as bare:  # as somebody on the way sees it
            bare.setblocking(True)
            seen = bare.recv(MIB)
        assert len(seen) > len(secret)
        assert secret[:28] not in seen
        peers.there.abort()


class Untouched:
    """A part of the receiver that must not be reached."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was used for a request that nobody may make")


async def test_a_node_that_speaks_in_anothers_name_is_refused_before_anything_is_looked_at(
    certificates: Certificates, beta: Credentials
) -> None:
    untouched: Any = Untouched()
    receiver = Receiver("beta", untouched, untouched, untouched, untouched, lambda: None)
    async with serving(TlsWire(beta), receiver.handle) as port:
        told = await refusal(TlsWire(certificates.issue("gamma")), port)
    assert told.reason == "NotThatNode"
    assert "the certificate is gamma's, the request alpha's" in str(told)
