"""Asks the agents over their HTTP API for what is not kept in etcd: progress, and what they would do."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.answers import SOCKET, Answer, Health
from holdfast.coordinator.model.node import Node
from pydantic import ValidationError

TIMEOUT, CONNECT_TIMEOUT = 2.0, 1.0
"""Seconds."""

A = TypeVar("A", bound=Answer)
B = TypeVar("B", bound=Answer)


@dataclass(frozen=True, slots=True)
class Answers(Generic[A]):
    """By node; who did not answer, with why."""

    given: Mapping[str, A]
    silent: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Access:
    """How agents are reached: under TLS where we have a certificate; the one on this machine by its socket."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    socket: Path = SOCKET

    def context(self) -> ssl.SSLContext | None:
        """For TLS; None without certificates. OSError if they cannot be read."""
        if not (self.ca and self.cert and self.key):
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert, self.key)
        return context


async def ask(
    nodes: Mapping[str, Node], path: str, kind: type[A], access: Access, patience: float = TIMEOUT
) -> Answers[A]:
    """Ask every node at once. `patience`: seconds for each at most; more where an agent looks at its storage first."""
    import aiohttp  # here, because it takes a third of the start of every command

    given: dict[str, A] = {}
    silent: dict[str, str] = {}
    context = access.context()
    scheme = "https" if context else "http"

    async def get(session: aiohttp.ClientSession, url: str, name: str, answer: type[B]) -> B | str:
        # by TLS an agent must have a certificate for the node's name: addresses may move
        more: dict[str, Any] = {"ssl": context, "server_hostname": name} if url.startswith("https") else {}
        async with session.get(url, **more) as response:
            if response.status != 200:
                return f"answered with status {response.status}"
            return answer.model_validate_json(await response.read())

    async def local() -> str | None:
        """The node whose agent listens on this machine's socket, where we may use it."""
        if not os.access(access.socket, os.W_OK):
            return None
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(access.socket)), timeout=timeout) as s:
                health = await get(s, "http://agent/v1/health", "", Health)
                if isinstance(health, str) or health.node not in nodes:
                    return None
                answer = await get(s, f"http://agent{path}", "", kind)
        except (TimeoutError, aiohttp.ClientError, OSError, ValidationError):
            return None
        if isinstance(answer, str):
            return None
        given[health.node] = answer
        return health.node

    async def one(session: aiohttp.ClientSession, name: str, node: Node) -> None:
        host = f"[{node.address}]" if ":" in node.address else node.address
        try:
            answer = await get(session, f"{scheme}://{host}:{node.api_port}{path}", name, kind)
            if isinstance(answer, str):
                silent[name] = answer
            else:
                given[name] = answer
        except TimeoutError:
            silent[name] = f"no answer from {host}:{node.api_port} within {patience:g} s"
        except aiohttp.ClientSSLError as error:
            silent[name] = f"{host}:{node.api_port} is not trusted, or does not speak TLS ({error})"
        except (aiohttp.ClientError, OSError, ValidationError) as error:
            silent[name] = f"no answer from {host}:{node.api_port} ({type(error).__name__})"

    timeout = aiohttp.ClientTimeout(total=patience, connect=CONNECT_TIMEOUT)
    here = await local()
    async with aiohttp.ClientSession(timeout=timeout) as session, TaskGroup() as group:
        for name, node in nodes.items():
            if name != here:
                group.create_task(one(session, name, node))
    return Answers(given, dict(sorted(silent.items())))
