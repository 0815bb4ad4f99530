"""Copies of points for people: clones of their snapshots, and who has cloned what.

A clone needs its snapshot. Where the cluster makes clones of the old kind (ceph osd require-min-compat-client below
mimic), that must be protected; with the new kind Ceph keeps its data for as long as there are clones, also once the
snapshot has been removed. A copy is an image that nobody else uses; what is written to it stays in it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from holdfast.agent.guests import krbd
from holdfast.agent.ports import CopyOrder, Refused, VolumesError
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.images import opened, parent_of, snapshots
from holdfast.coordinator.planning.observed import Volume


def make(pool: Pool, order: CopyOrder, me: str, data_pool: str | None) -> None:
    """Clone a snapshot. Under another name until it bears its mark, and none of what it was cloned from."""
    parent, snapshot = names.split_snapshot(order.snapshot)
    name = names.image_of(order.dataset)
    rbd, draft = pool.rbd.RBD(), names.new(name)
    there = set(rbd.list(pool.io))
    if name in there:
        raise Refused("NameTaken", f"there is an image {name} already. Choose another name for the copy.")
    if draft in there:
        rbd.remove(pool.io, draft)
    _clone(pool, parent, snapshot, draft, data_pool)
    with opened(pool, draft) as image:
        for key, _ in list(image.metadata_list()):  # librbd gives a clone all metadata of what it comes from
            if key.startswith(names.META):
                image.metadata_remove(key)
        image.metadata_set(names.COPY, f"{me} {order.mark}")
    rbd.rename(pool.io, draft, name)


def _clone(pool: Pool, parent: str, snapshot: str, name: str, data_pool: str | None) -> None:
    """librbd is never asked for what it would refuse for want of protection.

    At that error it lets go of a lock that it still uses: of some ten times one hangs or ends this process (16.2.15).
    """
    if not pool.new_clones:
        with opened(pool, parent) as image:  # of a replica nobody has protected the snapshot yet
            if not image.is_protected_snap(snapshot):
                image.protect_snap(snapshot)
    rbd = pool.rbd
    features = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_DEEP_FLATTEN
    features |= rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF
    rbd.RBD().clone(pool.io, parent, snapshot, pool.io, name, features=features, data_pool=data_pool)


@contextmanager
def _ours(pool: Pool, dataset: str, me: str, *, read_only: bool = True) -> Iterator[Any]:
    """A copy that this node has made, open."""
    try:
        with opened(pool, names.image_of(dataset), read_only=read_only) as image:
            if dict(image.metadata_list()).get(names.COPY, "").partition(" ")[0] != me:
                raise Refused("NotACopy", f"{dataset} is no copy that this node has made; it is left alone.")
            yield image
    except pool.rbd.ImageNotFound:
        raise VolumesError(f"{dataset} has gone since it was last seen; it is looked for again.") from None


def drop(pool: Pool, dataset: str, me: str) -> None:
    """Remove a copy. What it was a clone of need not be protected for it any more."""
    pool.io.set_osdmap_full_try()
    with _ours(pool, dataset, me) as image:
        parent = parent_of(pool, image)
    pool.rbd.RBD().remove(pool.io, names.image_of(dataset))
    _let_go(pool, parent)


def flatten(pool: Pool, dataset: str, me: str) -> None:
    """Let a copy need its point no more. One that was cut short goes on; one that needs none is as good."""
    with _ours(pool, dataset, me, read_only=False) as image:
        parent = parent_of(pool, image)
        if parent is not None:
            # By its object map librbd passes over what is noted as existing, and it notes that before it copies: after
            # one that was killed in between the next flattening would lose such objects (Ceph issue 68998, fixed in
            # December 2024), in 16.2.15 now and then also with the map built anew. Without one the OSDs are asked.
            if maps := image.features() & (pool.rbd.RBD_FEATURE_OBJECT_MAP | pool.rbd.RBD_FEATURE_FAST_DIFF):
                image.update_features(maps, False)
            image.flatten()
    _let_go(pool, parent)


def kernel_name(pool: Pool, dataset: str, me: str) -> str:
    """What the kernel knows a copy by that this node has made."""
    with _ours(pool, dataset, me):
        return _kernel_name(pool, dataset)


def with_devices(pool: Pool, volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """The same, where copies of this node that its kernel has mapped tell their devices."""
    mine = [name for name, volume in volumes.items() if "copy" in volume.marks]
    devices = {device.image: device.path for device in krbd.devices()} if mine else {}
    found = {name: devices.get(_kernel_name(pool, name)) for name in mine}
    return {**volumes, **{name: replace(volumes[name], device=device) for name, device in found.items()}}


def _kernel_name(pool: Pool, dataset: str) -> str:
    return names.of_kernel(pool.fsid, pool.io.get_pool_name(), pool.io.get_namespace(), names.image_of(dataset))


def _let_go(pool: Pool, parent: Mapping[str, str] | None) -> None:
    if parent is not None:
        with opened(pool, parent["image_name"]) as image:
            free(pool, image, parent["snap_name"])


def free(pool: Pool, image: Any, snapshot: str) -> None:
    """Unprotect the snapshot of a replica, whose commits remove it one day. The owner's are held for other reasons."""
    there = {s["name"] for s in snapshots(pool, image)}
    replica = names.REPLICA in dict(image.metadata_list())
    if replica and snapshot in there and image.is_protected_snap(snapshot) and not clones(image, snapshot):
        image.unprotect_snap(snapshot)


def clones(image: Any, snapshot: str) -> list[str]:
    """The clones of a snapshot of an open image, as rbd(8) takes their names."""
    image.set_snap(snapshot)
    try:
        found = list(image.list_children2())
    finally:
        image.set_snap(None)
    return [_child(each) for each in found]


def _child(child: Any) -> str:
    where = "/".join(filter(None, (child["pool"], child["pool_namespace"], child["image"])))
    return f"{where} (in the trash, id {child['id']})" if child["trash"] else where


def in_use(image: Any, snapshot: str) -> VolumesError:
    """Why a snapshot can be neither unprotected nor removed: by name, who needs it."""
    found = ", ".join(clones(image, snapshot)) or "an image that is open"
    return VolumesError(
        f"{image.get_name()}@{snapshot} is needed by {found}. Flatten a clone (rbd flatten) or remove it."
    )
