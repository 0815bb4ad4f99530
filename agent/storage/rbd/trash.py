"""Removes images of ours by way of Ceph's trash, where they stay for a time of grace.

Guards invariant 3, nothing lost: what was removed by mistake is there until its time is over (`rbd trash restore`).
Only an entry that bears our mark with this node's name is ever purged: what others have moved there, or a person has,
is theirs; and Ceph itself refuses while the time is not over.
"""

from datetime import UTC, datetime

import structlog
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.images import opened

log = structlog.get_logger()

GRACE = 7 * 86400.0
"""Seconds."""
PURGE_EVERY = 3600.0
"""Seconds between looks at what is over."""

_LIST = "rbd_trash"
"""As librbd calls it (RBD_TRASH, rbd_types.h)."""


def prepare(pool: Pool) -> None:
    """Make the object that lists what is there. In a full pool none can be made, and nothing be removed without."""
    with pool.rados.WriteOpCtx() as op:
        op.new(pool.rados.LIBRADOS_CREATE_IDEMPOTENT)
        pool.io.operate_write_op(op, _LIST)


def move(pool: Pool, name: str, me: str, grace: float) -> None:
    """Move an image there; its name is free then."""
    pool.io.set_osdmap_full_try()  # in a full pool, what is let go of must not wait
    with opened(pool, name) as image:
        image.metadata_set(names.TRASHED, me)
    pool.rbd.RBD().trash_move(pool.io, name, delay=int(grace))
    log.info("moved to the trash", image=name, pool=pool.io.get_pool_name(), seconds=int(grace))


def purge(pool: Pool, me: str, now: datetime) -> None:
    """Remove what this node has moved there and whose time is over. What cannot be removed stays, and is logged."""
    pool.io.set_osdmap_full_try()
    for entry in list(pool.rbd.RBD().trash_list(pool.io)):
        if entry["deferment_end_time"].replace(tzinfo=UTC) > now or not _ours(pool, entry["id"], me):
            continue
        try:
            pool.rbd.RBD().trash_remove(pool.io, entry["id"])
        except (pool.rbd.Error, pool.rados.Error) as error:  # a snapshot of somebody, or it has just been restored
            log.warning("not purged from the trash", image=entry["name"], id=entry["id"], error=str(error))
        else:
            log.info("purged from the trash", image=entry["name"], id=entry["id"])


def _ours(pool: Pool, id: str, me: str) -> bool:
    try:
        with pool.rbd.Image(pool.io, image_id=id, read_only=True) as image:
            return dict(image.metadata_list()).get(names.TRASHED) == me
    except pool.rbd.ImageNotFound:
        return False
