"""The replica's side of a stream: what is checked and marked before one begins, and how a cut one is undone.

Guards invariant 3 on a replica: nothing is written into an image that does not bear our mark for this very disk and
node and that rbd-mirror does not keep, and a stream begins only on the snapshot that it was made from, with nothing
written since. A cut stream leaves part of its data in the head; before anything else happens there, the head is rolled
back to the newest snapshot.
"""

from collections.abc import Mapping
from typing import Any

from holdfast.agent.ports import ReceiveOrder, Refused
from holdfast.agent.storage.rbd import identity, names, trash
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.identity import Received
from holdfast.agent.storage.rbd.images import opened, rolled_back, volume
from holdfast.agent.storage.rbd.mirroring import refuse_mirrored
from holdfast.coordinator.planning.observed import Volume


def begin(pool: Pool, order: ReceiveOrder, me: str, data_pool: str | None) -> None:
    """Make the image ready for the stream, and mark what is coming."""
    name = names.image_of(order.dataset)
    mark = f"{order.mark} {me}"
    if name not in pool.rbd.RBD().list(pool.io):
        if order.base:
            raise Refused("BaseMissing", f"{order.dataset} is not there any more; it is sent in full.")
        _create(pool, name, mark, data_pool)
    with opened(pool, name, read_only=True) as image:
        before = volume(pool, image, names.storeid_of(order.dataset), me)
        refuse_mirrored(pool, image, order.dataset)
    with opened(pool, name) as image:
        metadata = dict(image.metadata_list())
        if metadata.get(names.REPLICA) != mark:
            raise Refused("TargetOccupied", f"{order.dataset} is no replica of {order.mark} of this node; left alone.")
        base = order.base or (before.resume_base if order.resume else None)
        _check_base(before, base, order.dataset)
        _undo(image, metadata, before)
        # before the marks of what was cut go: without any, what is left in the head would look like somebody's
        image.metadata_set(names.SNAP + order.snapshot, str(Received(order.guid, base)))
        _drop_marks(image, metadata, before, but=order.snapshot)
        if names.ROLLED_BACK in metadata:
            image.metadata_remove(names.ROLLED_BACK)


def _create(pool: Pool, name: str, mark: str, data_pool: str | None) -> None:
    """Under another name until it is marked as ours: an image without marks would be somebody else's for ever."""
    draft = names.new(name)
    rbd = pool.rbd.RBD()
    if draft in rbd.list(pool.io):
        rbd.remove(pool.io, draft)
    features = pool.rbd.RBD_FEATURE_LAYERING | pool.rbd.RBD_FEATURE_EXCLUSIVE_LOCK | pool.rbd.RBD_FEATURE_DEEP_FLATTEN
    features |= pool.rbd.RBD_FEATURE_OBJECT_MAP | pool.rbd.RBD_FEATURE_FAST_DIFF
    rbd.create(pool.io, draft, 0, old_format=False, features=features, data_pool=data_pool)
    with opened(pool, draft) as image:
        image.metadata_set(names.REPLICA, mark)
    rbd.rename(pool.io, draft, name)


def _check_base(before: Volume, base: int | None, dataset: str) -> None:
    newest = before.newest
    if (newest.guid if newest else None) != base:
        raise Refused("BaseMissing", f"the newest snapshot of {dataset} is not the one that the stream begins at.")
    if newest is not None and before.resume_token is None and before.written:
        raise Refused("ReplicaModified", f"{dataset} was written to since {newest.name}; that is left alone.")


def _undo(image: Any, metadata: Mapping[str, str], before: Volume) -> None:
    """Bring the head back to what it was before the stream that was cut; if that was done already, once more."""
    newest = before.newest.name if before.newest else None
    if before.resume_token is not None or rolled_back(metadata, newest):
        if before.newest is not None:
            image.rollback_to_snap(before.newest.name)
        else:
            image.resize(0)


def _drop_marks(image: Any, metadata: Mapping[str, str], before: Volume, but: str = "") -> None:
    """Marks whose snapshots are not there: of the cut stream, and of what was destroyed."""
    there = {snapshot.name for snapshot in before.snapshots}
    for name in identity.received(metadata):
        if name not in there and name != but:
            image.metadata_remove(names.SNAP + name)


def abort(pool: Pool, dataset: str, me: str, grace: float) -> None:
    """Undo a cut stream. An image that has never had a snapshot goes, to the trash for `grace` seconds.

    Nothing is done where no stream was cut.
    """
    name = names.image_of(dataset)
    with opened(pool, name, read_only=True) as image:
        before = volume(pool, image, names.storeid_of(dataset), me)
        _check_ours(pool, image, dataset, me)
    if before.resume_token is None:
        return
    if before.newest is None:
        trash.move(pool, name, me, grace)
        return
    with opened(pool, name) as image:
        metadata = dict(image.metadata_list())
        image.metadata_set(names.ROLLED_BACK, before.newest.name)
        _undo(image, metadata, before)
        _drop_marks(image, metadata, before)


def _check_ours(pool: Pool, image: Any, dataset: str, me: str) -> None:
    if dict(image.metadata_list()).get(names.REPLICA, "").partition(" ")[2] != me:
        raise Refused("TargetOccupied", f"{dataset} is no replica of this node; it is left alone.")
    refuse_mirrored(pool, image, dataset)


def set_aside(pool: Pool, dataset: str, me: str, vmid: int, epoch: int) -> str:
    """Rename a replica of ours to the first free name, and take its mark off; returns the new dataset."""
    old = names.image_of(dataset)
    with opened(pool, old, read_only=True) as image:
        _check_ours(pool, image, dataset, me)
    taken = set(pool.rbd.RBD().list(pool.io))
    number = 1
    while (name := names.aside(old, vmid, epoch, number)) in taken:
        number += 1
    pool.rbd.RBD().rename(pool.io, old, name)
    with opened(pool, name) as image:
        image.metadata_set(names.ASIDE, str(vmid))
        image.metadata_remove(names.REPLICA)
    return f"{names.PREFIX}{names.storeid_of(dataset)}/{name}"
