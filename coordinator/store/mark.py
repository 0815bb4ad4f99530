"""Which keyspace a node last worked under, kept over its restarts: a restored, older etcd is refused (invariant 6).

Whoever restores etcd on purpose raises `generation` in `meta`; then the keyspace is taken as it is.
"""

from typing import Annotated

from holdfast.coordinator.model.owner import Meta
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.store.port import KeyValue, WentBack
from pydantic import Field, ValidationError


class Mark(Record):
    """What was last seen of the keyspace."""

    cluster_uuid: str
    """Of `meta`."""
    generation: Annotated[int, Field(ge=1)]
    """Of `meta`."""
    revision: Annotated[int, Field(ge=1)]
    """Of etcd."""

    def check(self, meta: KeyValue | None, revision: int, file: str) -> None:
        """WentBack if `meta`, and the revision of etcd, are an older keyspace's or another cluster's.

        `file`: where this mark is kept.
        """
        found = mark_of(meta, revision)
        restored = (
            "If etcd was restored from a backup and is to be gone on from, stop Holdfast on all nodes, raise "
            f"`generation` in its key `meta` above {self.generation}, and start them again"
        )
        if meta is None or (found and found.cluster_uuid != self.cluster_uuid):
            other = f"{found.cluster_uuid}'s" if found else "one without `meta`"
            refusal = f"it is {other}, this node has worked for {self.cluster_uuid}"
            advice = f"If this node is to work for it from now on, remove {file} from its state folder"
        elif found and found.generation < self.generation:
            refusal = f"it is of generation {found.generation}, this node has worked under {self.generation}"
            advice = restored
        elif revision < self.revision and not (found and found.generation > self.generation):
            refusal, advice = f"etcd is at revision {revision}, this node has seen {self.revision}", restored
        else:
            return
        raise WentBack(f"the keyspace is not the one that this node worked under: {refusal}. {advice}")


def mark_of(meta: KeyValue | None, revision: int) -> Mark | None:
    """What the keyspace is at a revision of etcd; None if its `meta` is missing or cannot be read."""
    try:
        read = Meta.model_validate_json(meta.value) if meta else None
    except ValidationError:
        return None
    return Mark(cluster_uuid=read.cluster_uuid, generation=read.generation, revision=revision) if read else None
