"""`owners/<vmid>`: the one node that may write a guest's volumes. Guards invariant 1, single writer.

Written by the elected coordinator alone, by compare-and-swap; the epoch only grows.
"""

from enum import StrEnum
from typing import Annotated

from holdfast.coordinator.model.names import NodeName
from holdfast.coordinator.model.record import Instant, Record
from pydantic import Field

Epoch = Annotated[int, Field(ge=1, le=2**53)]


class Phase(StrEnum):
    """What the owner may do now; later issues add handover and takeover."""

    OWNED = "owned"


class Owner(Record):
    """Node and epoch; `by` is the coordinator that wrote it."""

    node: NodeName
    """The one node that may write the guest's volumes."""
    epoch: Epoch
    """Numbers the owners of a guest; it only grows."""
    phase: Phase = Phase.OWNED
    """What the owner may do now."""
    since: Instant
    """When it became the owner."""
    by: str
    """The coordinator that wrote it."""


class Meta(Record):
    """`meta`: what this keyspace is. `generation` grows when it is rebuilt: an old etcd is refused."""

    format: int = 1
    """Of the keys and records; a reader refuses one that it does not know."""
    cluster_uuid: str
    """Identifies the cluster, whatever it is called."""
    generation: Annotated[int, Field(ge=1)] = 1
    """Grows when the keyspace is rebuilt."""
