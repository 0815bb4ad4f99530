"""The keys of `/holdfast/<cluster>/` (DESIGN §5): written in one place, so that every role agrees on them."""

from dataclasses import dataclass

from holdfast.coordinator.model.guest import Guest, Placement
from holdfast.coordinator.model.names import NodeName
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.policy import ProtectionPolicy
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.model.storage import Storage

DEFAULT_CLUSTER = "default"

DESIRED: dict[str, type[Record]] = {
    "storage": Storage,
    "guests": Guest,
    "placements": Placement,
    "nodes": Node,
    "policies": ProtectionPolicy,
    "requests": Request,
}
"""Folder under `desired/` → what its records are, unless they say otherwise (`record_type`)."""

KINDS: dict[str, tuple[str, type[Record]]] = {
    "Storage": ("storage", Storage),
    "Guest": ("guests", Guest),
    "Placement": ("placements", Placement),
    "Node": ("nodes", Node),
    "ProtectionPolicy": ("policies", ProtectionPolicy),
    "SnapshotPolicy": ("policies", SnapshotPolicy),
}
"""`kind` of a document that people apply → folder under `desired/`, and what its records are."""


def record_type(folder: str, data: object) -> type[Record]:
    """What a record of a folder is; policies are of two kinds, and those that do not say are for protection."""
    if folder == "policies" and isinstance(data, dict) and data.get("kind") == "SnapshotPolicy":
        return SnapshotPolicy
    return DESIRED[folder]


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Builds the keys of one cluster."""

    cluster: str = DEFAULT_CLUSTER

    @property
    def root(self) -> str:
        """Everything of this cluster."""
        return f"/holdfast/{self.cluster}/"

    @property
    def meta(self) -> str:
        """Format, cluster UUID, generation."""
        return f"{self.root}meta"

    @property
    def leader(self) -> str:
        """The coordinator that decides (leased)."""
        return f"{self.root}leader"

    @property
    def revoked(self) -> str:
        """The authority's list of certificates that no longer count (PEM, signed)."""
        return f"{self.root}revoked"

    @property
    def desired_prefix(self) -> str:
        """All desired state."""
        return f"{self.root}desired/"

    def desired(self, folder: str, name: str | int) -> str:
        """One record of desired state; `folder` is a key of DESIRED."""
        return f"{self.root}desired/{folder}/{name}"

    @property
    def owners_prefix(self) -> str:
        """All owners."""
        return f"{self.root}owners/"

    def owner(self, vmid: int) -> str:
        """The owner of one guest."""
        return f"{self.root}owners/{vmid}"

    def lock(self, vmid: int) -> str:
        """The exclusive lock of one guest (leased)."""
        return f"{self.root}locks/{vmid}"

    def lock_queue(self, vmid: int) -> str:
        """All who wait for a guest's lock, and its holder."""
        return f"{self.root}locks/{vmid}/queue/"

    def agent_prefix(self, node: NodeName) -> str:
        """All that one agent says."""
        return f"{self.root}agents/{node}/"

    def agent(self, node: NodeName) -> str:
        """What one agent says of itself."""
        return f"{self.root}agents/{node}/self"

    def guest_report_prefix(self, node: NodeName) -> str:
        """All that one agent says of guests that it owns."""
        return f"{self.root}agents/{node}/guests/"

    def guest_report(self, node: NodeName, vmid: int) -> str:
        """What the owner's agent says of a guest."""
        return f"{self.guest_report_prefix(node)}{vmid}"

    def request_report(self, node: NodeName, id: str) -> str:
        """What became of a request that one agent is to carry out."""
        return f"{self.root}agents/{node}/requests/{id}"

    def replica_prefix(self, node: NodeName) -> str:
        """All that one agent says of replicas."""
        return f"{self.root}agents/{node}/replicas/"

    def replica_report(self, node: NodeName, vmid: int) -> str:
        """What a target's agent says of the points it holds."""
        return f"{self.replica_prefix(node)}{vmid}"
