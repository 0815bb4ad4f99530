"""Takes recovery points of images, and lets go of them.

Guards invariants 2 and 3. What is about to be snapshotted is noted on the anchor first, so that what a crash leaves is
known to be ours. The record comes last, in a transaction that checks the epoch; if that is refused, the snapshots go.

One instant over several images: librbd has no call for it that leaves the guest alone (an explicit exclusive lock makes
the guest's writes fail with EROFS, seen on 16.2.15). The snapshots are made side by side, within some 10 ms, and then
every image is looked at: if none was written to since, they show one instant and the point is `atomic`; else it is what
the caller has seen to (`paused`) or nothing (`none`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from holdfast.agent.ports import LockToken, Refused, VolumesError
from holdfast.agent.storage.rbd import anchor, names
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.copies import free, in_use
from holdfast.agent.storage.rbd.images import guids, opened, volume
from holdfast.agent.storage.rbd.mirroring import is_primary
from holdfast.coordinator.model.point import Member, PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Volume


@dataclass(frozen=True, slots=True)
class Taken:
    """One image after its snapshot was made, or found to be the same as an older one."""

    snapshot: str
    guid: int
    made: bool


def look(pool: Pool, dataset: str, me: str) -> Volume:
    """One image, as it is now. Raises VolumesError if it has gone."""
    try:
        with opened(pool, names.image_of(dataset), read_only=True) as image:
            return volume(pool, image, names.storeid_of(dataset), me)
    except pool.rbd.ImageNotFound:
        raise VolumesError(f"{dataset} has gone since it was last seen; it is looked for again.") from None


def announce(
    pool: Pool, vmid: int, me: str, epoch: int, name: str, datasets: Sequence[str], token: LockToken | None
) -> None:
    """Note what is about to be snapshotted, after removing what an earlier attempt has left."""
    marks = anchor.read(pool, vmid)
    unfinished = marks.unfinished if marks else {}
    if unfinished:  # a stale owner must not remove what the new one is about to record
        anchor.change(pool, vmid, me, epoch, {}, token=token)
    for left, images in unfinished.items():
        for dataset in images:
            _remove_if_there(pool, dataset, left, None)
    gone = [anchor.TAKING + left for left in unfinished if left != name]
    anchor.change(pool, vmid, me, epoch, {anchor.TAKING + name: " ".join(datasets)}, gone, token)


def same_as(pool: Pool, dataset: str, before: tuple[str, int] | None, me: str) -> Taken | None:
    """The snapshot that may be used again, if nothing was written since."""
    if before is not None and look(pool, dataset, me).unchanged_since(before[1]):
        return Taken(*before, made=False)
    return None


def snapshot(pool: Pool, dataset: str, name: str) -> Taken:
    """Make one snapshot."""
    with opened(pool, names.image_of(dataset)) as image:
        if not is_primary(pool, image):
            raise Refused(
                "NotPrimary",
                f"{dataset} is a copy that rbd-mirror brings from another cluster. Where the guest is to run here,"
                " promote it first (rbd mirror image promote).",
            )
        image.create_snap(name)
        return Taken(name, guids(pool, image)[name], made=True)


def record(
    pool: Pool,
    vmid: int,
    me: str,
    epoch: int,
    point: RecoveryPoint,
    definition: str,
    token: LockToken | None,
    announced: bool = False,
) -> None:
    """Write the point's record."""
    values = {
        anchor.POINT + str(point.id): point.to_json().decode(),
        anchor.DEFINITION + point.definition: definition,
    }
    anchor.change(pool, vmid, me, epoch, values, (anchor.TAKING + point.snapshot,) if announced else (), token)


def drop(pool: Pool, members: Sequence[Member]) -> None:
    """Remove the snapshots of a point that did not come about."""
    for member in members:
        _remove_if_there(pool, member.dataset, member.snapshot, None)


def destroy(pool: Pool, doomed: Sequence[Doomed]) -> None:
    """Remove snapshots that still have their GUID. All are tried; the first failure is raised at the end."""
    pool.io.set_osdmap_full_try()  # as rbd snap rm does: in a full pool anything else waits
    failed: Exception | None = None
    for each in doomed:
        dataset, _, name = each.snapshot.partition("@")
        try:
            _remove_if_there(pool, dataset, name, each.guid)
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _remove_if_there(pool: Pool, dataset: str, name: str, guid: int | None) -> None:
    names.split_snapshot(f"{dataset}@{name}")
    try:
        with opened(pool, names.image_of(dataset)) as image:
            _end_cut_removals(pool, image)
            found = guids(pool, image).get(name)
            if found is None:
                return
            if guid is not None and found != guid:
                raise Refused("GuidDiffers", f"{dataset}@{name} is not the snapshot that was recorded; left alone.")
            try:
                _remove(pool, image, name)
            except pool.rbd.ImageBusy:
                raise in_use(image, name) from None
            if names.SNAP + name in dict(image.metadata_list()):
                image.metadata_remove(names.SNAP + name)
    except pool.rbd.ImageNotFound:
        return


def _remove(pool: Pool, image: Any, name: str) -> None:
    try:
        image.remove_snap(name)
    except pool.rbd.ImageBusy:
        free(pool, image, name)  # whoever flattened or removed its last copy may have been killed before that
        image.remove_snap(name)


def _end_cut_removals(pool: Pool, image: Any) -> None:
    """librbd gives a snapshot that it removes another name first, in the trash of the image. One that was cut short
    there, as by an OSD that died, would keep its data for ever; so would nobody look for it under that name."""
    for snapshot in list(image.list_snaps()):
        if snapshot.get("namespace") != pool.rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH:
            continue
        if PointId.of_snapshot(snapshot["trash"]["original_name"]) is not None:
            with suppress(pool.rbd.ImageBusy):  # a clone needs it; Ceph removes it with that
                image.remove_snap_by_id(snapshot["id"])


def protect(_pool: Pool, image: Any, name: str) -> None:
    """Keep a snapshot from being removed, by hand or from Proxmox."""
    if not image.is_protected_snap(name):
        image.protect_snap(name)


def unprotect(pool: Pool, image: Any, name: str) -> None:
    """Undo `protect`. Raises VolumesError while it has clones that need it protected."""
    try:
        if image.is_protected_snap(name):
            image.unprotect_snap(name)
    except pool.rbd.ImageBusy:
        raise in_use(image, name) from None


def each_snapshot(snapshots: Sequence[str], act: Callable[[Pool, Any, str], None], pool: Pool) -> None:
    """Do something with snapshots of ours, each image opened once."""
    by_image: dict[str, list[str]] = {}
    for name in snapshots:
        image, short = names.split_snapshot(name)
        by_image.setdefault(image, []).append(short)
    pool.io.set_osdmap_full_try()
    for image_name, shorts in by_image.items():
        with opened(pool, image_name) as image:
            for short in shorts:
                act(pool, image, short)
