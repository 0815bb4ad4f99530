"""What an agent answers over its local API; a reader ignores what a newer agent says besides."""

from datetime import datetime
from pathlib import Path

from holdfast.coordinator.model.condition import Condition
from pydantic import BaseModel, ConfigDict

SOCKET = Path("/run/holdfast/agent.sock")
"""Where an agent answers on its own machine, to root."""


class Answer(BaseModel):
    """Of any kind."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer agent may say more


class Transfer(Answer):
    """One disk on its way. `total` is None where the stream's size is not known."""

    vmid: int
    disk: str
    target: str
    bytes: int
    total: int | None = None
    seconds: float
    bytes_per_second: float


class Progress(Answer):
    """`GET /v1/progress`"""

    transfers: tuple[Transfer, ...] = ()


class GuestPlan(Answer):
    """What an agent would do for one guest now, and when next."""

    vmid: int
    steps: tuple[str, ...] = ()
    due: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class Plan(Answer):
    """`GET /v1/plan`"""

    guests: tuple[GuestPlan, ...] = ()


class Foreign(Answer):
    """A snapshot of one of a guest's volumes that is no recovery point."""

    dataset: str
    snapshot: str
    origin: str
    """The tool that made it, by its name."""
    used: int
    """Bytes that go with it."""


class GuestSnapshots(Answer):
    """One guest's, where it runs."""

    vmid: int
    foreign: tuple[Foreign, ...] = ()


class Snapshots(Answer):
    """`GET /v1/snapshots`"""

    guests: tuple[GuestSnapshots, ...] = ()


class Leftover(Answer):
    """Something that is of no use to anybody any more."""

    kind: str
    name: str
    vmid: int
    used: int
    """Bytes that go with it."""
    proof: str
    remove: str
    """The command that removes it; empty: the agent does."""


class Leftovers(Answer):
    """`GET /v1/leftovers`"""

    found: tuple[Leftover, ...] = ()


class RollbackPreview(Answer):
    """`GET /v1/rollback`"""

    refused: str = ""
    """Why the guest cannot be brought back to the point now; empty: it can."""
    loses: tuple[str, ...] = ()
    """What it would no longer have; all of that is kept aside."""


class Health(Answer):
    """`GET /v1/health`: that the agent runs, and what is wrong with its node."""

    node: str
    version: str
    now: datetime
    """Its clock."""
    synced: bool
    """Whether it has read the keyspace."""
    staleness: float | None = None
    """Seconds since it last heard of etcd."""
    conditions: tuple[Condition, ...] = ()


class Reach(Answer):
    """`GET /v1/reach`: the nodes whose agents it cannot reach, each with why; connects to all of them."""

    unreachable: dict[str, str] = {}
