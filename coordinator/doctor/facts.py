"""What was found out about a cluster; whatever could not be found out says why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.coordinator.model.condition import Condition


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member of etcd. `error`: why it did not answer; `metrics` is None where they could not be read."""

    endpoint: str
    version: str = ""
    has_leader: bool = True
    alarms: tuple[str, ...] = ()
    error: str | None = None
    metrics: Mapping[str, float] | None = None
    """Plain ones by name, and `fsync_p99` in seconds."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """One node's agent. `error`: why it did not answer."""

    error: str | None = None
    clock_ahead: float = 0.0
    """Seconds by which its clock is ahead of ours, as far as the question's time lets one know."""
    conditions: tuple[Condition, ...] = ()
    unreachable: Mapping[str, str] | None = field(default_factory=dict)
    """Node → why its agent cannot be reached from this one; None where it did not say."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    members: tuple[MemberFacts, ...]
    agents: Mapping[str, AgentFacts]
    leader: bool
    tls: bool
    authority_until: datetime | None = None
    own_conditions: tuple[Condition, ...] = ()
    """Of the certificate that these facts were collected with."""
    wrong_roles: Mapping[str, str] | None = None
    """Role of etcd → what is wrong with it; None where one may not look."""
