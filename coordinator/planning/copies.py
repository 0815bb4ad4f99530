"""Copies of points that people have asked for: clones, and what is mounted for a while. Pure.

A copy is a clone of each of a point's disks, under `<pool>/holdfast/clones/`. Each bears its mark, by which the copies
of a node are found again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.coordinator.model.names import DiskSlot, Vmid
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.record import Instant, Record
from holdfast.coordinator.model.request import CopyName, PointNumber
from holdfast.coordinator.planning.observed import Scan, Volume, is_rbd, pool_of
from pydantic import ValidationError

MOUNTS = "/run/holdfast/mounts"


class CopyMark(Record):
    """What one dataset is a copy of."""

    vmid: Vmid
    name: CopyName
    point: PointNumber
    disk: DiskSlot
    until: Instant | None = None
    """When it is to go; None: it stays."""


@dataclass(slots=True)
class Copy:
    """A copy as it was found."""

    vmid: int
    name: str
    point: str
    until: datetime | None
    datasets: dict[str, str] = field(default_factory=dict)
    """Slot → dataset."""
    needs_point: bool = False
    """Whether anything of it is a clone still, which has not been flattened."""


def copies(scan: Scan) -> dict[tuple[int, str], Copy]:
    """All copies on a node, by VMID and name."""
    found: dict[tuple[int, str], Copy] = {}
    for volume in scan.volumes.values():
        if "copy" not in volume.marks or volume.dataset.split("/")[1:3] != ["holdfast", "clones"]:
            continue
        try:
            mark = CopyMark.model_validate_json(volume.marks["copy"])
        except ValidationError:  # of another version
            continue
        copy = found.setdefault((mark.vmid, mark.name), Copy(mark.vmid, mark.name, mark.point, mark.until))
        copy.datasets[mark.disk] = volume.dataset
        copy.needs_point |= volume.origin is not None
    return found


def dataset(vmid: int, name: str, member: str) -> str:
    """Where the copy of a member's dataset lies."""
    return f"{pool_of(member)}/holdfast/clones/{vmid}-{name}-{member.rpartition('/')[2]}"


def folder(vmid: int, name: str, disk: str) -> str:
    """Where a container's volume is mounted."""
    return f"{MOUNTS}/{vmid}-{name}/{disk}"


def has_files(volume: Volume, disk: str) -> bool:
    """Whether people are to see its files, not a device: a container's, on RBD a file system without partitions."""
    return volume.kind == "filesystem" or (is_rbd(volume.dataset) and (disk == "rootfs" or disk.startswith("mp")))


def where(copy: Copy, volumes: Mapping[str, Volume]) -> dict[str, str]:
    """Slot → what a person uses: a device or a folder where it is mounted, else the dataset, or the volume on Ceph."""
    return {slot: _place(copy, slot, volumes[name]) for slot, name in sorted(copy.datasets.items())}


def _place(copy: Copy, disk: str, volume: Volume) -> str:
    if copy.until is None:
        return _volume(volume.dataset) if is_rbd(volume.dataset) else volume.dataset
    if is_rbd(volume.dataset) and volume.device is None:
        return f"{_volume(volume.dataset)} (mount it again)"  # as after a restart of the host
    if has_files(volume, disk):
        return folder(copy.vmid, copy.name, disk)
    return volume.device or f"/dev/zvol/{volume.dataset}"


def _volume(dataset: str) -> str:
    """The image as Proxmox writes a volume: on RBD the folders of a dataset are part of its name."""
    storeid, _, image = dataset.removeprefix("rbd:").partition("/")
    return f"{storeid}:{image.replace('/', '.')}"


def missing(copy: Copy | None, point: RecoveryPoint) -> list[str]:
    """The slots of a point that a copy lacks still."""
    have = copy.datasets if copy else {}
    return [m.disk for m in point.members if m.disk not in have]
