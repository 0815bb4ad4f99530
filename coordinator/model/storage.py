"""`desired/storage/<storeid>`: one section of storage.cfg."""

from typing import Self

from holdfast.coordinator.model.names import NodeName, check_dataset
from holdfast.coordinator.model.record import Record
from pydantic import Field, model_validator

REPLICABLE = frozenset({"zfspool"})
"""Storage types between which Holdfast replicates so far."""


class Storage(Record):
    """A storage as Proxmox defines it; `nodes` None means every node."""

    type: str
    """Proxmox's storage type: zfspool, lvmthin, rbd …"""
    nodes: tuple[NodeName, ...] | None = None
    """The nodes that have it; every node where this is left out."""
    content: tuple[str, ...] = ()
    """What may be kept there: images, rootdir …"""
    shared: bool = False
    """Whether several nodes reach the same data."""
    disabled: bool = False
    """Whether Proxmox is kept from using it."""
    properties: dict[str, str] = Field(default_factory=dict)
    """Everything else of the section, by type: `pool`, `sparse`, `blocksize`, `mountpoint` … Never a secret."""

    @model_validator(mode="after")
    def _zfspool_has_a_pool(self) -> Self:
        if self.type == "zfspool":
            if "pool" not in self.properties:
                raise ValueError("a zfspool storage needs properties.pool, the dataset that holds its volumes")
            check_dataset(self.properties["pool"])
        return self

    def reaches(self, node: str) -> bool:
        """Whether Proxmox offers this storage on `node`."""
        return not self.disabled and (self.nodes is None or node in self.nodes)

    @property
    def replicable(self) -> bool:
        """Whether volumes here can be replicated to another storage of the same type."""
        return self.type in REPLICABLE and not self.shared

    def dataset(self, volname: str) -> str:
        """The ZFS dataset of a volume. A linked clone, `base-9-disk-0/vm-101-disk-0`, lies beside its base."""
        return f"{self.properties['pool']}/{volname.rpartition('/')[2]}"
