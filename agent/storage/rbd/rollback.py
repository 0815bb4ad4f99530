"""Brings the images of a guest back to a point: renamed aside, rolled back as they lie there, renamed back.

Guards invariants 1 and 2: an image that any client has open, on whichever node, is not touched; and none gets its name
back before all have been rolled back (`planning.rollback`), so that no guest starts from a mixture.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.images import guids, opened
from holdfast.agent.storage.rbd.mirroring import is_primary


def put_aside(pool: Pool, dataset: str, aside: str) -> None:
    """Rename a head that nobody has open."""
    name = names.image_of(dataset)
    with opened(pool, name, read_only=True) as image:
        if names.REPLICA in dict(image.metadata_list()):
            raise Refused("NotAHead", f"{dataset} is a replica; it is left alone.")
        if not is_primary(pool, image):
            raise Refused("NotPrimary", f"{dataset} is a copy that rbd-mirror brings; roll back where it is primary.")
        if watchers := _watchers(image):
            raise Refused("GuestRuns", f"{dataset} is open on {', '.join(watchers)}. Shut the guest down first.")
    pool.rbd.RBD().rename(pool.io, name, names.image_of(aside))


def clients(pool: Pool, datasets: Sequence[str]) -> list[str]:
    """Who has images open for writing; those that are aside, or gone, have none."""
    found: list[str] = []
    for dataset in datasets:
        with suppress(pool.rbd.ImageNotFound), opened(pool, names.image_of(dataset), read_only=True) as image:
            found += _watchers(image)
    return found


def _watchers(image: Any) -> list[str]:
    """Their addresses, as `rbd status` has them. Who opens an image for reading only, as here, is none."""
    return sorted(watcher["addr"] for watcher in image.watchers_list())


def roll_back(pool: Pool, aside: str, snapshot: str, guid: int, mark: str) -> None:
    """Roll an image that lies aside back to a snapshot, then mark that it was done. Done twice it is the same."""
    with opened(pool, names.image_of(aside)) as image:
        if guids(pool, image).get(snapshot) != guid:
            raise VolumesError(
                f"{aside}@{snapshot} is not the snapshot of the point any more; nothing was rolled back."
            )
        image.rollback_to_snap(snapshot)
        image.metadata_set(names.BACK, mark)


def put_back(pool: Pool, aside: str, dataset: str) -> None:
    """Give an image its name again."""
    pool.rbd.RBD().rename(pool.io, names.image_of(aside), names.image_of(dataset))
