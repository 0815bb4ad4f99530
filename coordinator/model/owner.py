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
    epoch: Epoch
    phase: Phase = Phase.OWNED
    since: Instant
    by: str


class Meta(Record):
    """`meta`: what this keyspace is. `generation` grows when it is rebuilt: an old etcd is refused."""

    format: int = 1
    cluster_uuid: str
    generation: Annotated[int, Field(ge=1)] = 1
