"""One look at the images of a pool and namespace, as plans see volumes.

An image is opened only if something about it changed: the version of its header object tells of snapshots, size and
metadata, that of its object map whether anything was written. So an idle image costs two operations of an OSD.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast.agent.storage.rbd import identity, names
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


class Images:
    """Remembers what it saw, so that the next look is cheap. One look at a time."""

    def __init__(self, storeid: str, me: str) -> None:
        self._storeid = storeid
        self._me = me
        self._seen: dict[str, _Seen] = {}

    def look(self, pool: Pool) -> dict[str, Volume]:
        """Dataset → volume, of every image whose name can be one of ours or Proxmox's."""
        seen: dict[str, _Seen] = {}
        for entry in pool.rbd.RBD().list2(pool.io):
            id, name = entry["id"], entry["name"]
            if not id or not _plain(self._storeid, name):
                continue
            try:
                seen[id] = self._one(pool, id, name)
            except (pool.rbd.ImageNotFound, pool.rados.ObjectNotFound):
                continue  # it was removed meanwhile
        self._seen = seen
        return {each.volume.dataset: each.volume for each in seen.values()}

    def _one(self, pool: Pool, id: str, name: str) -> _Seen:
        versions = (_version(pool, f"rbd_header.{id}"), _version(pool, f"rbd_object_map.{id}"))
        before = self._seen.get(id)
        if before is not None and before.name == name and before.versions == versions and versions[1]:
            return before
        with opened(pool, name, read_only=True) as image:
            return _Seen(name, versions, volume(pool, image, self._storeid, self._me))


def _plain(storeid: str, name: str) -> bool:
    try:
        check_dataset(f"{names.PREFIX}{storeid}/{name}")
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
        for s in image.list_snaps()
    }


def volume(pool: Pool, image: Any, storeid: str, me: str) -> Volume:
    """What plans see of an image that is open for reading: it is set to its snapshots one after the other."""
    metadata = {k: v for k, v in image.metadata_list() if k.startswith(names.META)}
    came, guid_by_name = identity.received(metadata), guids(pool, image)
    listed = sorted(image.list_snaps(), key=lambda s: s["id"])
    user = {s["name"] for s in listed if _is_user(pool, s)}
    told = _tells(pool, image)
    snapshots, before = [], None
    for found in listed:
        written, held = UNKNOWN, 0
        if found["name"] in user:
            held = int(image.is_protected_snap(found["name"]))
            if told and (before is None or before in user):
                image.set_snap(found["name"])
                written = _changed(image, before)
        snapshots.append(Snapshot(found["name"], guid_by_name[found["name"]], found["id"], written, 0, held))
        before = found["name"]
    image.set_snap(None)
    cut = identity.partial(came, [s.name for s in snapshots])
    undone = cut is not None or rolled_back(metadata, before)
    written = _changed(image, before) if told and (before is None or before in user) else UNKNOWN
    return Volume(
        dataset=f"{names.PREFIX}{storeid}/{image.get_name()}",
        kind="volume",
        guid=identity.guid(pool.fsid, pool.id, image.id()),
        size=max(1, image.size()),
        used=sum(s.written for s in snapshots) + written,
        referenced=_changed(image, None) if told and before is not None else written,
        # of a cut stream the head has a part; what counts is what it was before, which a roll-back brings again
        written=0 if undone else written,
        encrypted=False,
        resume_token=identity.token(cut[1]) if cut else None,
        resume_guid=cut[1].guid if cut else None,
        resume_base=cut[1].base if cut else None,
        marks=_marks(metadata, me),
        snapshots=tuple(snapshots),
    )


def rolled_back(metadata: Mapping[str, str], newest: str | None) -> bool:
    """Whether the head of a replica is its newest snapshot, though the object map says otherwise."""
    return newest is not None and metadata.get(names.ROLLED_BACK) == newest


def _is_user(pool: Pool, snapshot: Any) -> bool:
    """Whether it is an ordinary snapshot: not one of a group, of rbd-mirror or in the trash."""
    return bool(snapshot.get("namespace", 0) == pool.rbd.RBD_SNAP_NAMESPACE_TYPE_USER)


def _tells(pool: Pool, image: Any) -> bool:
    """Whether the object maps say what changed, which costs a read of each, instead of one of every object."""
    fast = pool.rbd.RBD_FEATURE_FAST_DIFF | pool.rbd.RBD_FEATURE_OBJECT_MAP
    invalid = pool.rbd.RBD_FLAG_FAST_DIFF_INVALID | pool.rbd.RBD_FLAG_OBJECT_MAP_INVALID
    return bool(image.features() & fast == fast and not image.flags() & invalid)


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
    return marks
