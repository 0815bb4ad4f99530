"""One look at the images of a pool and namespace, as plans see volumes.

An image is opened only if something about it changed: the version of its header object tells of snapshots, size and
metadata, that of its object map whether anything was written. So an idle image costs two operations of an OSD.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from holdfast.agent.storage.rbd import identity, mirroring, names
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.model.names import check_dataset
from holdfast.coordinator.planning.observed import Snapshot, Volume

UNKNOWN = 1
"""Bytes written, where the image has no valid object map to tell: it counts as changed."""

Versions = tuple[int, int]
"""Of the header and the object map; 0 where there is no object map."""


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    versions: Versions
    volume: Volume
    primary: bool
    """If it is mirrored: whether the others follow this one."""
    fixed: bool
    """Whether its versions tell when that changes."""


class Images:
    """Remembers what it saw, so that the next look is cheap. One look at a time."""

    def __init__(self, storeid: str, me: str) -> None:
        self._storeid = storeid
        self._me = me
        self._seen: dict[str, _Seen] = {}

    def look(self, pool: Pool) -> dict[str, Volume]:
        """Dataset → volume, of every image whose name can be one of ours or Proxmox's."""
        seen: dict[str, _Seen] = {}
        mirrored = mirroring.statuses(pool)
        for entry in pool.rbd.RBD().list2(pool.io):
            id, name = entry["id"], entry["name"]
            if not id or not _plain(self._storeid, name):
                continue
            try:
                seen[id] = _with_mirror(self._one(pool, id, name, id in mirrored), mirrored.get(id))
            except (pool.rbd.ImageNotFound, pool.rados.ObjectNotFound):
                continue  # it was removed meanwhile
        self._seen = seen
        return {each.volume.dataset: each.volume for each in seen.values()}

    def _one(self, pool: Pool, id: str, name: str, mirrored: bool) -> _Seen:
        versions = (_version(pool, f"rbd_header.{id}"), _version(pool, f"rbd_object_map.{id}"))
        before = self._seen.get(id)
        if before is not None and mirrored and not before.fixed:
            before = None
        if before is not None and before.name == name and before.versions == versions and versions[1]:
            return before
        with opened(pool, name, read_only=True) as image:
            found = volume(pool, image, self._storeid, self._me)
            fixed = not mirroring.by_journal(pool, image)
            return _Seen(name, versions, found, mirroring.is_primary(pool, image), fixed)


def _with_mirror(seen: _Seen, status: Mapping[str, Any] | None) -> _Seen:
    mirror = mirroring.described(status, primary=seen.primary) if status else None
    return replace(seen, volume=replace(seen.volume, mirror=mirror)) if mirror != seen.volume.mirror else seen


def _plain(storeid: str, name: str) -> bool:
    try:
        check_dataset(names.dataset(storeid, name))
    except ValueError:
        return False
    return "/" not in name


def _version(pool: Pool, object: str) -> int:
    """An object's version; 0 if it does not exist. Raises ObjectNotFound for a header that has gone."""
    try:
        pool.io.stat(object)
    except pool.rados.ObjectNotFound:
        if object.startswith("rbd_header."):
            raise
        return 0
    return int(pool.io.get_last_version())


@contextmanager
def opened(pool: Pool, name: str, *, read_only: bool = False) -> Iterator[Any]:
    """An open librbd image."""
    with pool.rbd.Image(pool.io, name, read_only=read_only) as image:
        yield image


def guids(pool: Pool, image: Any) -> dict[str, int]:
    """Name → GUID of an open image's snapshots, without a look at what was written."""
    came = identity.received(dict(image.metadata_list()))
    id = image.id()
    return {
        s["name"]: came[s["name"]].guid if s["name"] in came else identity.guid(pool.fsid, pool.id, id, s["id"])
        for s in snapshots(pool, image)
    }


def snapshots(pool: Pool, image: Any) -> list[Any]:
    """Those that an open image has, oldest first.

    One that was removed while it had clones of the new kind is none any more: Ceph keeps it in the trash, under a name
    that nobody can open, for as long as they need it.
    """
    there = [s for s in image.list_snaps() if s.get("namespace", 0) != pool.rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH]
    return sorted(there, key=lambda s: s["id"])


def volume(pool: Pool, image: Any, storeid: str, me: str) -> Volume:
    """What plans see of an image that is open for reading: it is set to its snapshots one after the other."""
    metadata = {k: v for k, v in image.metadata_list() if k.startswith(names.META)}
    came, guid_by_name = identity.received(metadata), guids(pool, image)
    listed = snapshots(pool, image)
    user = {s["name"] for s in listed if _is_user(pool, s)}
    told = _tells(pool, image)
    found, before, size = [], None, None
    for each in listed:
        written, held = 0, 0  # what was written before one of rbd-mirror, say, counts to the next that people may name
        if each["name"] in user:
            held = int(image.is_protected_snap(each["name"]))
            image.set_snap(each["name"])
            written = _written(image, before, size, told=told)
            before, size = each["name"], each["size"]
        found.append(Snapshot(each["name"], guid_by_name[each["name"]], each["id"], written, 0, held))
    image.set_snap(None)
    cut = identity.partial(came, [s.name for s in found])
    undone = cut is not None or rolled_back(metadata, found[-1].name if found else None)
    written = _written(image, before, size, told=told)
    return Volume(
        dataset=names.dataset(storeid, image.get_name()),
        kind="volume",
        guid=identity.guid(pool.fsid, pool.id, image.id()),
        size=max(1, image.size()),
        used=sum(s.written for s in found) + written,
        referenced=_changed(image, None) if told and before is not None else written,
        # of a cut stream the head has a part; what counts is what it was before, which a roll-back brings again
        written=0 if undone else written,
        encrypted=False,
        resume_token=identity.token(cut[1]) if cut else None,
        resume_guid=cut[1].guid if cut else None,
        resume_base=cut[1].base if cut else None,
        marks=_marks(metadata, me),
        snapshots=tuple(found),
        origin=_origin(pool, image, storeid),
    )


def rolled_back(metadata: Mapping[str, str], newest: str | None) -> bool:
    """Whether the head of a replica is its newest snapshot, though the object map says otherwise."""
    replica = names.REPLICA in metadata  # what was made a guest's disk since is written to
    return replica and newest is not None and metadata.get(names.ROLLED_BACK) == newest


def parent_of(pool: Pool, image: Any) -> Mapping[str, str] | None:
    """What an open image is a clone of; None if of nothing, or of nothing any more: it may have been flattened."""
    try:
        found: Mapping[str, str] = image.get_parent_image_spec()
    except pool.rbd.ImageNotFound:
        return None
    return found


def _origin(pool: Pool, image: Any, storeid: str) -> str | None:
    """What it is a clone of, if that is in the same pool and namespace."""
    here = (pool.io.get_pool_name(), pool.io.get_namespace())
    parent = parent_of(pool, image)
    if parent is None or (parent["pool_name"], parent["pool_namespace"]) != here:
        return None
    return f"{names.dataset(storeid, parent['image_name'])}@{parent['snap_name']}"


def _is_user(pool: Pool, snapshot: Any) -> bool:
    """Whether it is an ordinary snapshot: not one of a group or of rbd-mirror."""
    return bool(snapshot.get("namespace", 0) == pool.rbd.RBD_SNAP_NAMESPACE_TYPE_USER)


def _tells(pool: Pool, image: Any) -> bool:
    """Whether the object maps say what changed, which costs a read of each, instead of one of every object."""
    fast = pool.rbd.RBD_FEATURE_FAST_DIFF | pool.rbd.RBD_FEATURE_OBJECT_MAP
    invalid = pool.rbd.RBD_FLAG_FAST_DIFF_INVALID | pool.rbd.RBD_FLAG_OBJECT_MAP_INVALID
    return bool(image.features() & fast == fast and not image.flags() & invalid)


def _written(image: Any, since: str | None, size: int | None, *, told: bool) -> int:
    """Bytes, by whole objects, since a snapshot of this size: one that was resized is not the same any more."""
    written = _changed(image, since) if told else UNKNOWN
    return max(written, UNKNOWN) if size not in (None, image.size()) else written


def _changed(image: Any, since: str | None) -> int:
    """Bytes of the objects that differ from a snapshot, or that exist at all: an upper bound, by whole objects."""
    total = 0

    def count(_offset: int, length: int, _exists: bool) -> None:
        nonlocal total
        total += length

    if size := image.size():  # librbd 16 aborts the process where there is nothing to look at
        image.diff_iterate(0, size, since, count, whole_object=True)
    return total


def _marks(metadata: dict[str, str], me: str) -> dict[str, str]:
    """Marks as on ZFS. Of another node's replica it is told that it is one, but not as ours."""
    marks = {}
    if names.REPLICA in metadata:
        mark, _, node = metadata[names.REPLICA].partition(" ")
        marks["replica"] = mark if node == me else f"{node}:{mark}"
    if names.ASIDE in metadata:
        marks["aside"] = metadata[names.ASIDE]
    if names.BACK in metadata:
        marks["back"] = metadata[names.BACK]
    node, _, mark = metadata.get(names.COPY, "").partition(" ")
    if node == me:
        marks["copy"] = mark
    return marks
