"""The agent's local API on real sockets: TLS, the unix socket, what OpenAPI says of it, and the command line's side."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from holdfast.agent.api import PATHS, Api
from holdfast.agent.openapi import document
from holdfast.agent.ports import Handler
from holdfast.agent.transfer.receiver import Receiver
from holdfast.agent.transfer.sender import Sender
from holdfast.agent.transfer.tcp import TcpWire
from holdfast.agent.transfer.tls import TlsWire
from holdfast.coordinator.cli.agents import Access, ask
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.model.answers import Health, Plan, Progress, Reach
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.planning.observed import Scan
from integration.certificates import Certificates
from integration.test_tcp import HOST, free_port
from integration.test_tls import serving


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


class Running:
    """An API with one stream under way, and no guest."""

    def __init__(self, port: int, socket: Path) -> None:
        self.port, self.socket = port, socket
        self.nodes = {"beta": Node(address=HOST, api_port=port)}


@contextlib.asynccontextmanager
async def running(
    folder: Path, credentials: Credentials | None = None, nodes: dict[str, Node] | None = None, name: str = "beta"
) -> AsyncIterator[Running]:
    channel = SimpleNamespace(transferred=lambda: 1000)
    transfer = SimpleNamespace(vmid=101, disk="scsi0", target="gamma", total=4000, started=0.0, channel=channel)
    host = SimpleNamespace(now=lambda: datetime.now(UTC), monotonic=lambda: 10.0)
    sender = Sender(Any, TlsWire(credentials) if credentials else TcpWire(), Any)  # type: ignore[arg-type]
    sender.transfers = [transfer]  # type: ignore[assignment]
    desired = SimpleNamespace(nodes=dict(nodes or {}), guests={})
    view = SimpleNamespace(desired=desired, generation=1, owned=dict)
    scanner = SimpleNamespace(look=_nothing)
    context: Any = SimpleNamespace(me=name, host=host, sender=sender, view=view, scanner=scanner)
    api = Api(context, {}, credentials, lambda: 0.5, credentials.conditions if credentials else lambda now: ())
    made = Running(free_port(), folder / "run" / "agent.sock")
    serving = asyncio.create_task(api.serve(HOST, made.port, made.socket))
    try:
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(HOST, made.port)
                    writer.close()
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # the unix socket comes second
        yield made
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def _nothing(vmid: int, age: float) -> Scan:
    return Scan(datetime.now(UTC))


def receiver(name: str) -> Handler:
    """The real one, which is asked for nothing but who it takes the asker for."""
    unused: Any = None
    return Receiver(name, unused, unused, unused, unused, unused).handle


def access(folder: Path, credentials: Credentials | None = None) -> Access:
    """The command line's, without a local socket."""
    ca, cert, key = credentials._files if credentials else (None, None, None)
    return Access(ca, cert, key, folder / "none.sock")


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.NODE, Role.COORDINATOR])
async def test_whoever_belongs_to_the_cluster_is_answered_under_tls(
    certificates: Certificates, tmp_path: Path, role: Role
) -> None:
    async with running(tmp_path, certificates.issue("beta")) as api:
        answers = await ask(api.nodes, "/v1/progress", Progress, access(tmp_path, certificates.issue("me", role)))
    (transfer,) = answers.given["beta"].transfers
    assert (transfer.bytes, transfer.total, transfer.bytes_per_second) == (1000, 4000, 100)


async def test_who_has_no_certificate_or_a_foreign_expired_or_revoked_one_is_not_answered(
    certificates: Certificates, tmp_path: Path
) -> None:
    beta = certificates.issue("beta")
    revoked = certificates.issue("gone", Role.OPERATOR)
    beta.revoke(certificates.revocation_list(revoked))
    foreign = Certificates(tmp_path / "foreign").issue("me", Role.OPERATOR)
    expired = certificates.issue("old", Role.OPERATOR, ago=timedelta(days=400))
    async with running(tmp_path, beta) as api:
        for mine in (None, foreign, expired, revoked):
            answers = await ask(api.nodes, "/v1/progress", Progress, access(tmp_path, mine))
            assert answers.given == {}
            assert answers.silent["beta"]
        assert answers.silent["beta"] == "answered with status 403"


async def test_another_nodes_agent_at_an_address_is_not_believed(certificates: Certificates, tmp_path: Path) -> None:
    mine = access(tmp_path, certificates.issue("me", Role.OPERATOR))
    async with running(tmp_path, certificates.issue("gamma")) as api:
        answers = await ask(api.nodes, "/v1/progress", Progress, mine)
    assert answers.given == {}
    assert "is not trusted" in answers.silent["beta"]


async def test_a_renewed_certificate_is_shown_without_a_restart(certificates: Certificates, tmp_path: Path) -> None:
    mine = access(tmp_path, certificates.issue("me", Role.OPERATOR))
    beta = certificates.issue("beta", ago=timedelta(days=400))
    async with running(tmp_path, beta) as api:
        assert (await ask(api.nodes, "/v1/health", Health, mine)).given == {}
        certificates.issue("beta")
        beta.conditions(datetime.now(UTC))  # as each report asks
        assert (await ask(api.nodes, "/v1/health", Health, mine)).given["beta"].conditions == ()


async def test_on_its_own_machine_an_agent_answers_by_its_socket(certificates: Certificates, tmp_path: Path) -> None:
    async with running(tmp_path, certificates.issue("beta")) as api:
        unreachable = {"beta": Node(address="192.0.2.1"), "gamma": Node(address=HOST, api_port=free_port())}
        answers = await ask(unreachable, "/v1/progress", Progress, Access(socket=api.socket))
    assert list(answers.given) == ["beta"]
    assert list(answers.silent) == ["gamma"]


async def test_an_agent_says_which_others_it_cannot_reach_and_why(certificates: Certificates, tmp_path: Path) -> None:
    mine = access(tmp_path, certificates.issue("me", Role.OPERATOR))
    beta = certificates.issue("beta")
    async with serving(TlsWire(certificates.issue("gamma")), receiver("gamma")) as port:
        nodes = {
            "beta": Node(address="192.0.2.1"),  # itself
            "gamma": Node(address=HOST, transfer_port=port),
            "delta": Node(address=HOST, transfer_port=free_port()),
            "epsilon": Node(address=HOST, transfer_port=port),
        }
        async with running(tmp_path, beta, nodes) as api:
            answers = await ask(api.nodes, "/v1/reach", Reach, mine)
    found = answers.given["beta"].unreachable
    assert set(found) == {"delta", "epsilon"}
    assert "cannot be reached" in found["delta"]
    assert "answers gamma, not epsilon" in found["epsilon"]


async def test_a_node_that_does_not_take_an_agent_for_who_it_is_is_not_reached(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Of which the handshake alone says nothing."""
    mine = access(tmp_path, certificates.issue("me", Role.OPERATOR))
    beta, gamma = certificates.issue("beta"), certificates.issue("gamma")
    gamma.revoke(certificates.revocation_list(beta))
    async with serving(TlsWire(gamma), receiver("gamma")) as port:
        nodes = {"gamma": Node(address=HOST, transfer_port=port)}
        async with running(tmp_path, beta, nodes) as api:
            answers = await ask(api.nodes, "/v1/reach", Reach, mine)
    assert "the certificate of node beta" in answers.given["beta"].unreachable["gamma"]


async def test_a_socket_that_is_left_over_is_replaced_and_one_that_cannot_be_made_stops_nothing(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        async with running(tmp_path) as api:
            answers = await ask({"beta": Node(address="192.0.2.1")}, "/v1/plan", Plan, Access(socket=api.socket))
            assert answers.given["beta"].guests == ()
    (tmp_path / "taken").write_text("")
    async with running(tmp_path / "taken") as api:
        assert (await ask(api.nodes, "/v1/plan", Plan, access(tmp_path))).given["beta"].guests == ()


async def test_what_openapi_describes_is_what_is_served_and_answers_fit_it(tmp_path: Path) -> None:
    connector = aiohttp.UnixConnector(str(tmp_path / "run" / "agent.sock"))
    async with running(tmp_path), aiohttp.ClientSession(connector=connector) as session:
        async with session.get("http://agent/openapi.json") as response:
            described = await response.json()
        assert described == document(PATHS)
        assert set(described["paths"]) == {
            "/v1/health",
            "/v1/leftovers",
            "/v1/reach",
            "/v1/progress",
            "/v1/snapshots",
            "/v1/rollback",
            "/v1/plan",
        }
        for each in PATHS:
            async with session.get(f"http://agent{each.path}") as response:
                assert response.status == 200
                answer = await response.json()
            content = described["paths"][each.path]["get"]["responses"]["200"]["content"]
            name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert set(answer) == set(described["components"]["schemas"][name]["properties"])
            each.answer.model_validate(answer)
        for path in ("/", "/v1/none"):
            async with session.get(f"http://agent{path}") as response:
                assert response.status == 404
        async with session.get("http://agent/v1/plan?vmid=x") as response:
            assert response.status == 400


def test_the_published_description_is_the_agents(pytestconfig: pytest.Config) -> None:
    published = (pytestconfig.rootpath / "docs" / "openapi.json").read_bytes()
    assert orjson.loads(published) == document(PATHS), "write it anew: holdfast.agent.openapi.document"
