"""Asks the agents over their HTTP API for what is not kept in etcd: progress, and what they would do."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.node import Node
from pydantic import BaseModel, ConfigDict, ValidationError

TIMEOUT, CONNECT_TIMEOUT = 2.0, 1.0
"""Seconds."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer agent may say more


class Transfer(_Answer):
    """One disk on its way. `total` is None where the stream's size is not known."""

    vmid: int
    disk: str
    target: str
    bytes: int
    total: int | None = None
    seconds: float
    bytes_per_second: float


class Progress(_Answer):
    """`GET /v1/progress`"""

    transfers: tuple[Transfer, ...] = ()


class GuestPlan(_Answer):
    """What an agent would do for one guest now, and when next."""

    vmid: int
    steps: tuple[str, ...] = ()
    due: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class Plan(_Answer):
    """`GET /v1/plan`"""

    guests: tuple[GuestPlan, ...] = ()


A = TypeVar("A", bound=_Answer)


@dataclass(frozen=True, slots=True)
class Answers(Generic[A]):
    """By node; who did not answer, with why."""

    given: Mapping[str, A]
    silent: Mapping[str, str]


async def ask(nodes: Mapping[str, Node], path: str, kind: type[A]) -> Answers[A]:
    """Ask every node at once, 2 s each at most."""
    import aiohttp  # here, because it takes a third of the start of every command

    given: dict[str, A] = {}
    silent: dict[str, str] = {}

    async def one(session: aiohttp.ClientSession, name: str, node: Node) -> None:
        host = f"[{node.address}]" if ":" in node.address else node.address
        try:
            async with session.get(f"http://{host}:{node.api_port}{path}") as response:
                if response.status != 200:
                    silent[name] = f"answered with status {response.status}"
                    return
                given[name] = kind.model_validate_json(await response.read())
        except TimeoutError:
            silent[name] = f"no answer from {host}:{node.api_port} within 2 s"
        except (aiohttp.ClientError, OSError, ValidationError) as error:
            silent[name] = f"no answer from {host}:{node.api_port} ({type(error).__name__})"

    timeout = aiohttp.ClientTimeout(total=TIMEOUT, connect=CONNECT_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        for name, node in nodes.items():
            group.create_task(one(session, name, node))
    return Answers(given, dict(sorted(silent.items())))
