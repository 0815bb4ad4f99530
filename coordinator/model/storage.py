"""`desired/storage/<storeid>`: one section of storage.cfg."""

import re
from typing import Self

from holdfast.coordinator.model.capabilities import CAN, Capability
from holdfast.coordinator.model.names import NodeName, check_dataset
from holdfast.coordinator.model.record import Record
from pydantic import Field, model_validator

_CEPH_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\Z")


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
    def _rbd_names_are_plain(self) -> Self:
        """They end up in a command's arguments."""
        if self.type == "rbd":
            for name in ("pool", "namespace", "data-pool", "username"):
                if (value := self.properties.get(name)) is not None and not _CEPH_NAME.match(value):
                    raise ValueError(f"properties.{name} of an rbd storage cannot be {value!r}")
        return self

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

    def can(self, wanted: Capability) -> bool:
        """Whether it can; one that is shared although its type is not made for that can do nothing."""
        found = CAN.get(self.type, frozenset())
        return wanted in found and (not self.shared or Capability.SHARED in found)

    def dataset(self, storeid: str, volname: str) -> str:
        """What holds a volume of this storage, which is called `storeid`: `<pool>/<name>`, or `rbd:STOREID/<name>`.

        A linked clone, `base-9-disk-0/vm-101-disk-0`, lies beside its base.
        """
        name = volname.rpartition("/")[2]
        return f"rbd:{storeid}/{name}" if self.type == "rbd" else f"{self.properties['pool']}/{name}"

    def same_place(self, other: "Storage") -> bool:
        """Whether both are the same pool and namespace of one Ceph: then they hold the same images."""
        return self.type == other.type == "rbd" and self._place() == other._place()

    def _place(self) -> tuple[frozenset[str], str, str]:
        mons = frozenset(re.split(r"[\s,;]+", self.properties.get("monhost", "").strip()))
        return mons, self.properties.get("pool", "rbd"), self.properties.get("namespace", "")
