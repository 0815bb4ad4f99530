"""What agents say over MQTT: topics and payloads. The words are those of their reports; etcd stays the truth.

Under `holdfast/<cluster>/`: `nodes/<node>` and `guests/<vmid>` are retained, `events/…` are not.
"""

from dataclasses import dataclass
from enum import StrEnum

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.names import NodeName, Vmid
from holdfast.coordinator.model.owner import Epoch
from holdfast.coordinator.model.record import Instant, Record
from holdfast.coordinator.model.report import AgentReport, GuestReport, PointReport


class NodeAnnouncement(AgentReport):
    """`nodes/<node>`, retained: the agent of itself. The broker says it is offline when its connection breaks."""

    node: NodeName
    """The node."""
    online: bool
    """False: the agent has stopped, or the broker has lost it. `seen` then says only that it still was there."""


class GuestAnnouncement(GuestReport):
    """`guests/<vmid>`, retained: the owner's agent of a guest. Of two, the one of the greater epoch counts."""

    vmid: Vmid
    """The guest."""
    node: NodeName
    """Its owner."""


class EventKind(StrEnum):
    """What has happened."""

    CONDITION_RAISED = "condition raised"
    CONDITION_CLEARED = "condition cleared"
    POINT_COMMITTED = "point committed"
    OWNED = "owned"
    RELEASED = "released"
    EVENTS_DROPPED = "events dropped"


class Event(Record):
    """`events/nodes/<node>`, `events/guests/<vmid>`: delivered at least once while the broker is there."""

    kind: EventKind
    """What has happened: of a guest, or of the node itself where no `vmid` is given."""
    at: Instant
    """When the agent noticed, by its clock."""
    node: NodeName
    """Whose agent says it."""
    vmid: Vmid | None = None
    """The guest."""
    epoch: Epoch | None = None
    """Under which the node owns the guest, or did (owned, released)."""
    condition: Condition | None = None
    """Which one (condition raised, condition cleared)."""
    target: NodeName | None = None
    """By which node (point committed)."""
    point: PointReport | None = None
    """Which one (point committed)."""
    dropped: int | None = None
    """How many events were given up, the oldest first, because the broker was away (events dropped)."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds the topics of one cluster."""

    cluster: str

    def node(self, node: NodeName) -> str:
        """Retained."""
        return f"holdfast/{self.cluster}/nodes/{node}"

    def guest(self, vmid: int) -> str:
        """Retained."""
        return f"holdfast/{self.cluster}/guests/{vmid}"

    def event(self, event: Event) -> str:
        """Where an event goes."""
        of = f"nodes/{event.node}" if event.vmid is None else f"guests/{event.vmid}"
        return f"holdfast/{self.cluster}/events/{of}"
