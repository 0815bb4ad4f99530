"""Names of what is Holdfast's on an RBD pool: objects, images, and keys in an image's metadata.

None of them is a disk to Proxmox, which takes `vm-N-…` and `base-N-…` (PVE::Storage::RBDPlugin).
"""

from holdfast.coordinator.model.names import check_dataset
from holdfast.coordinator.model.point import PointId

PREFIX = "rbd:"
"""Of a dataset: `rbd:STOREID/IMAGE`."""

INDEX = "holdfast.index"
"""The object whose omap has a key for each guest that is marked in this pool and namespace: VMID → its node."""
META = "holdfast."
"""Begins every key of ours in an image's metadata."""
REPLICA = f"{META}replica"
"""On a replica: `VMID/SLOT NODE`."""
ASIDE = f"{META}aside"
"""On an image that was set aside: the VMID that it belonged to."""
COPY = f"{META}copy"
"""On a copy of a point: `NODE MARK`, of which the mark is planning's."""
TRASHED = f"{META}trashed"
"""On an image that we have moved to the trash: the node that did, and will purge it."""
BACK = f"{META}back"
"""On an image that was rolled back: to which snapshot (GUID), and the name that it had meanwhile."""
SNAP = f"{META}snap."
"""On a replica, for each snapshot that was received or is being received: `GUID BASE-GUID`, by the snapshot's name."""
ROLLED_BACK = f"{META}rolled-back"
"""On a replica: the newest snapshot's name, if its head was brought back to it. A roll-back writes the objects anew, so
that the object map counts them as changed, although nothing is."""


def anchor(vmid: int) -> str:
    """The object that carries what is marked about a guest."""
    return f"holdfast.guest.{vmid}"


def new(image: str) -> str:
    """An image's name until its marks are on it."""
    return f"holdfast.new.{image}"


def aside(image: str, vmid: int, epoch: int, number: int) -> str:
    """Where divergent or superseded data of a guest goes: RBD has no folders, so a name that Proxmox passes over."""
    return f"holdfast.aside.{vmid}-e{epoch}-{number}-{image.removeprefix('holdfast.aside.')}"


def of_kernel(fsid: str, pool: str, namespace: str, image: str) -> str:
    """What a kernel that has mapped it knows an image by (`guests.krbd`)."""
    return f"{fsid}/{pool}/{namespace}/{image}"


_CLONES, _CLONE_IMAGE = "holdfast/clones/", "holdfast.clones."
"""Copies of points have folders in a dataset, as on ZFS, so that all plans know them; RBD has none."""


def dataset(storeid: str, image: str) -> str:
    """The dataset of an image; undone by `image_of`."""
    if image.startswith(_CLONE_IMAGE):
        image = _CLONES + image.removeprefix(_CLONE_IMAGE)
    return f"{PREFIX}{storeid}/{image}"


def storeid_of(name: str) -> str:
    """The storage of a pool or dataset."""
    return name.removeprefix(PREFIX).partition("/")[0]


def image_of(dataset: str) -> str:
    """The image of a dataset; ValueError if it is none of RBD's."""
    check_dataset(dataset)
    storeid, slash, image = dataset.removeprefix(PREFIX).partition("/")
    if image.startswith(_CLONES):
        image = _CLONE_IMAGE + image.removeprefix(_CLONES)
    if not dataset.startswith(PREFIX) or not storeid or not slash or "/" in image:
        raise ValueError(f"not an image: {dataset!r} (rbd:STOREID/IMAGE)")
    return image


def split_snapshot(name: str) -> tuple[str, str]:
    """Image and short name of `rbd:STOREID/IMAGE@holdfast-…`. Only snapshots of ours are ever named to a command."""
    dataset, _, short = name.partition("@")
    if PointId.of_snapshot(short) is None:
        raise ValueError(f"not a snapshot of Holdfast: {name!r}")
    return image_of(dataset), short


def newer(name: str, others: list[str]) -> bool:
    """Whether a snapshot of ours is of a later point than all others of ours."""
    point = PointId.of_snapshot(name)
    found = [other for other in map(PointId.of_snapshot, others) if other is not None]
    return point is not None and all(point > other for other in found)
