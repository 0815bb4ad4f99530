"""librbd on the model of Ceph, as far as the agent's RBD back end calls it: see `librados`."""

import builtins
import errno
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from holdfast.agent.storage.rbd import names

from .ceph import FEATURES, FSID, CephPool, RbdImage
from .datasets import Image as Content
from .datasets import Snap
from .librados import RADOS, Call, CephError, Context, Io, reading, writing

TRASH = 2
"""The namespace of removed snapshots that have clones."""


class ImageNotFound(CephError):
    number = errno.ENOENT


class ImageExists(CephError):
    number = errno.EEXIST


class ImageBusy(CephError):
    number = errno.EBUSY


class ImageHasSnapshots(CephError):
    number = errno.ENOTEMPTY


class InvalidArgument(CephError):
    number = errno.EINVAL


class Crashed(BaseException):
    """The real library would take the process with it: nobody may ask it for this."""


class Image(Context):
    """An open image."""

    def __init__(self, io: Io, name: str = "", *, image_id: str = "", read_only: bool = False) -> None:
        self.io = io
        self._read_only = read_only
        self._snap: Snap | None = None
        self._image = self._open(name, image_id)

    @reading
    def _open(self, name: str, id: str) -> RbdImage:
        pool = self.io.pool
        there = (*pool.images.values(), *pool.trash.values())
        image = next((i for i in there if i.id == id), None) if id else pool.images.get(name)
        if image is None:
            raise ImageNotFound(f"[errno 2] error opening image {name or id}")
        return image

    def _there(self) -> RbdImage:
        """For a change; it may have been removed meanwhile."""
        assert not self._read_only
        return self._image

    def id(self) -> str:
        return self._image.id

    def get_name(self) -> str:
        return self._image.image_name

    def features(self) -> int:
        return FEATURES

    def flags(self) -> int:
        return 0

    def size(self) -> int:
        return (self._snap.image if self._snap else self._image.image).size

    @reading
    def metadata_list(self) -> list[tuple[str, str]]:
        return sorted(self._image.metadata.items())

    @writing
    def metadata_set(self, key: str, value: str) -> None:
        image = self._there()
        image.metadata[key] = value
        image.remark()

    @writing
    def metadata_remove(self, key: str) -> None:
        image = self._there()
        if key not in image.metadata:
            raise KeyError(f"no such key: {key}")
        del image.metadata[key]
        image.remark()

    def list_snaps(self) -> list[dict[str, Any]]:
        image = self._image
        of_people = [_listed(s, s.name, 0) for s in image.snaps.values()]
        removed = [_listed(s, f"removed-{s.txg}", TRASH) | {"trash": {"original_name": s.name}} for s in image.removed]
        return of_people + removed

    def get_parent_image_spec(self) -> dict[str, str]:
        if self._image.parent is None:
            raise ImageNotFound("[errno 2] error getting parent info")
        image, snap = self._image.parent
        name = f"removed-{snap.txg}" if snap in image.removed else snap.name
        return {
            "pool_name": self.io.get_pool_name(),
            "pool_namespace": self.io.get_namespace(),
            "image_name": image.image_name,
            "snap_name": name,
        }

    @reading
    def watchers_list(self) -> list[dict[str, str]]:
        """An open image of the agent's own is one too, for the moment; nothing here asks in it."""
        return [{"addr": client} for client in self.io.call.ceph.users(self._image.name)]

    @reading
    def mirror_image_get_info(self) -> dict[str, Any]:
        """No pool here is mirrored."""
        return {"global_id": "", "state": RBD_BINDING.RBD_MIRROR_IMAGE_DISABLED, "primary": False}

    @reading
    def list_children2(self) -> list[dict[str, Any]]:
        assert self._snap is not None
        pool = self.io.pool
        return [
            {"pool": pool.storeid, "pool_namespace": "", "image": i.image_name, "id": i.id, "trash": i.id in pool.trash}
            for i in pool.children(self._image, self._snap)
        ]

    def set_snap(self, name: str | None) -> None:
        self._snap = self._find(name) if name is not None else None

    def _find(self, name: str) -> Snap:
        snap = self._image.snaps.get(name)
        if snap is None:
            raise ImageNotFound(f"[errno 2] no snapshot {name} of {self._image.name}")
        return snap

    def is_protected_snap(self, name: str) -> bool:
        return self._find(name).held

    @writing
    def protect_snap(self, name: str) -> None:
        snap = self._find(name)
        if snap.held:
            raise ImageBusy(f"[errno 16] error protecting snapshot {name}")
        snap.held = True
        self._there().changed()

    @writing
    def unprotect_snap(self, name: str) -> None:
        snap = self._find(name)
        if not snap.held:
            raise InvalidArgument(f"[errno 22] error unprotecting snapshot {name}")
        if not self.io.pool.new_clones and self.io.pool.children(self._image, snap):
            raise ImageBusy(f"[errno 16] error unprotecting snapshot {name}")
        snap.held = False
        self._there().changed()

    @writing
    def create_snap(self, name: str) -> None:
        image = self._there()
        if name in image.snaps:
            raise ImageExists(f"[errno 17] error creating snapshot {name}")
        self.io.pool.snapshot(image, name)

    @writing
    def remove_snap(self, name: str) -> None:
        image, snap = self._there(), self._find(name)
        if snap.held:
            raise ImageBusy(f"[errno 16] error removing snapshot {name}")
        del image.snaps[name]
        if self.io.pool.children(image, snap):
            image.removed.append(snap)
        image.changed()
        storage = self.io.call.storage
        storage.audit.destroyed(storage, image, snap)

    @writing
    def remove_snap_by_id(self, id: int) -> None:
        """Of one that was removed, which is there for its clones alone."""
        assert id in {snap.txg for snap in self._there().removed}
        raise ImageBusy(f"[errno 16] error removing snapshot {id}")

    @writing
    def rollback_to_snap(self, name: str) -> None:
        image, snap = self._there(), self._find(name)
        storage = self.io.call.storage
        storage.audit.rewinds(storage, image)
        image.put(snap.image)
        image.torn = False
        image.changed()

    @writing
    def resize(self, size: int) -> None:
        image = self._there()
        before = image.image
        image.put(Content(0, 0, 0) if size == 0 else Content(before.counter, before.written, size))
        image.torn = image.torn and size > 0
        image.changed()

    @reading
    def diff_iterate(
        self,
        offset: int,
        length: int,
        since: str | None,
        callback: Callable[[int, int, bool], None],
        whole_object: bool,
    ) -> None:
        now = (self._snap.image if self._snap else self._image.image).written
        base = self._find(since) if since is not None else None
        before = base.image.written if base is not None else 0
        if now != before or (base is not None and self._rewritten(base)):
            callback(0, max(4096, abs(now - before)), True)

    def _rewritten(self, base: Snap) -> bool:
        """Whether anything was written since a snapshot, be it what had been there before."""
        image, until = self._image, self._snap
        if until is None and image.dirty:
            return True
        return any(base.txg < id and (until is None or id <= until.txg) for id in image.rewritten)


def _listed(snap: Snap, name: str, namespace: int) -> dict[str, Any]:
    return {"id": snap.txg, "name": name, "size": snap.image.size, "namespace": namespace}


class RBD:
    """What is done to images by their names."""

    def __init__(self) -> None:
        self._io: Io

    @property
    def io(self) -> Io:
        return self._io

    def list2(self, io: Io) -> list[dict[str, str]]:
        self._io = io
        return [{"id": io.pool.images[name].id, "name": name} for name in self._list()]

    def list(self, io: Io) -> list[str]:
        self._io = io
        return self._list()

    @reading
    def _list(self) -> builtins.list[str]:
        return sorted(self._io.pool.images)

    def create(self, io: Io, name: str, size: int, **options: object) -> None:
        self._io = io
        self._create(name, size)

    @writing
    def _create(self, name: str, size: int) -> None:
        if name in self._io.pool.images:
            raise ImageExists("[errno 17] error creating image")
        self._io.pool.create(name, size)

    def remove(self, io: Io, name: str) -> None:
        self._io = io
        self._remove(name)

    @writing
    def _remove(self, name: str) -> None:
        image = self._io.pool.images.get(name)
        if image is None:
            raise ImageNotFound("[errno 2] error removing image")
        self._may_go(image)
        storage = self._io.call.storage
        storage.audit.removed(storage, image)
        del self._io.pool.images[name]
        self._io.pool.detach(image)

    @staticmethod
    def _may_go(image: RbdImage) -> None:
        if image.snaps or image.removed:
            raise ImageHasSnapshots("[errno 39] error removing image")
        if image.receiving:
            raise ImageBusy("[errno 16] error removing image")

    def clone(self, io: Io, parent: str, snapshot: str, _to: Io, name: str, **options: object) -> None:
        self._io = io
        self._clone(parent, snapshot, name)

    @writing
    def _clone(self, parent: str, snapshot: str, name: str) -> None:
        pool = self._io.pool
        image = pool.images.get(parent)
        snap = image.snaps.get(snapshot) if image is not None else None
        if image is None or snap is None:
            raise ImageNotFound("[errno 2] error creating clone")
        if not snap.held and not pool.new_clones:
            raise Crashed("librbd 16.2.15 hangs or dies where it refuses a clone")
        if name in pool.images:
            raise ImageExists("[errno 17] error creating clone")
        made = pool.create(name, snap.image.size, snap.image.counter, snap.image.written)
        made.metadata, made.parent = dict(image.metadata), (image, snap)
        made.remark()

    def mirror_mode_get(self, io: Io) -> int:
        self._io = io
        return self._mirror_mode()

    @reading
    def _mirror_mode(self) -> int:
        return int(RBD_BINDING.RBD_MIRROR_MODE_DISABLED)

    def trash_move(self, io: Io, name: str, delay: int) -> None:
        self._io = io
        self._trash_move(name, delay)

    @writing
    def _trash_move(self, name: str, delay: int) -> None:
        pool = self._io.pool
        image = pool.images.get(name)
        if image is None:
            raise ImageNotFound("[errno 2] error moving image to trash")
        if image.receiving:
            raise ImageBusy("[errno 16] error moving image to trash")
        storage = self._io.call.storage
        storage.audit.trashed(storage, image)
        del pool.images[name]
        image.kept_until = self._io.call.ceph.now() + timedelta(seconds=delay)
        pool.trash[image.id] = image

    def trash_list(self, io: Io) -> builtins.list[dict[str, Any]]:
        self._io = io
        return self._trash_list()

    @reading
    def _trash_list(self) -> builtins.list[dict[str, Any]]:
        return [
            {"id": id, "name": i.image_name, "deferment_end_time": i.kept_until.replace(tzinfo=None)}
            for id, i in self._io.pool.trash.items()
            if i.kept_until is not None
        ]

    def trash_remove(self, io: Io, id: str) -> None:
        self._io = io
        self._trash_remove(id)

    @writing
    def _trash_remove(self, id: str) -> None:
        image = self._io.pool.trash.get(id)
        if image is None:
            raise ImageNotFound("[errno 2] error deleting image from trash")
        if image.kept_until is None or image.kept_until > self._io.call.ceph.now():
            raise CephError("[errno 1] error deleting image from trash", errno.EPERM)
        self._may_go(image)
        del self._io.pool.trash[id]
        self._io.pool.detach(image)

    def rename(self, io: Io, name: str, to: str) -> None:
        self._io = io
        self._rename(name, to)

    @writing
    def _rename(self, name: str, to: str) -> None:
        images = self._io.pool.images
        image = images.get(name)
        if image is None:
            raise ImageNotFound("[errno 2] error renaming image")
        if to in images:
            raise ImageExists("[errno 17] error renaming image")
        dataset = names.dataset(self._io.pool.storeid, to)
        storage = self._io.call.storage
        back = name.startswith("holdfast.aside.")
        if not back and not name.startswith("holdfast.new."):
            storage.audit.renamed(storage, image, dataset)
        del images[name]
        images[to] = image
        image.name = dataset
        if back:
            storage.audit.cloned(storage, image)


RBD_BINDING = SimpleNamespace(
    RBD=RBD,
    Image=Image,
    ImageNotFound=ImageNotFound,
    ImageExists=ImageExists,
    ImageBusy=ImageBusy,
    ImageHasSnapshots=ImageHasSnapshots,
    InvalidArgument=InvalidArgument,
    RBD_FEATURE_LAYERING=1,
    RBD_FEATURE_EXCLUSIVE_LOCK=4,
    RBD_FEATURE_OBJECT_MAP=8,
    RBD_FEATURE_FAST_DIFF=16,
    RBD_FEATURE_DEEP_FLATTEN=32,
    RBD_FEATURE_JOURNALING=64,
    RBD_FLAG_OBJECT_MAP_INVALID=1,
    RBD_FLAG_FAST_DIFF_INVALID=2,
    RBD_SNAP_NAMESPACE_TYPE_USER=0,
    RBD_SNAP_NAMESPACE_TYPE_TRASH=TRASH,
    RBD_MIRROR_MODE_DISABLED=0,
    RBD_MIRROR_IMAGE_DISABLED=2,
    Error=CephError,
)


class ModelPool:
    """What `agent.storage.rbd.cluster.Pool` is, on the model."""

    def __init__(self, pool: CephPool, call: Call) -> None:
        self.io = Io(pool, call)
        self.fsid = FSID
        self.id = pool.number
        self.rados, self.rbd = RADOS, RBD_BINDING
        self.new_clones = pool.new_clones
