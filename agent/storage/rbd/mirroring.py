"""What rbd-mirror does with images: it is told, and never fought.

Guards invariant 3 where another tool keeps images too. An image under rbd-mirror is not received into, rolled back or
renamed, whichever side of the relation it is: the other cluster would follow, or lose what they have in common.
Snapshots are taken of the primary one alone; librbd refuses others.

A pool without rbd-mirror costs no operation of an OSD more at a look; one with it costs one, and two for each 64 images
(`perf dump`, 16.2.15). Which side an image is on comes with its header, by a feature bit, where it is mirrored by
snapshots. Journals say it nowhere else than in their own objects, so an image that is mirrored by one is opened at
every look.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from holdfast.agent.mirrors import kept_by_mirror
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.planning.observed import Mirror, MirrorSite

NON_PRIMARY = 1 << 10
"""RBD_FEATURE_NON_PRIMARY (librbd's features.h), which the binding does not name."""

_STATES = ("unknown", "error", "syncing", "starting", "replaying", "stopping", "stopped")
"""By mirror_image_status_state_t (rbd/librbd.h)."""


def statuses(pool: Pool) -> dict[str, Mapping[str, Any]]:
    """Image's id → what rbd-mirror says of it, of every image that it is to keep."""
    if pool.rbd.RBD().mirror_mode_get(pool.io) == pool.rbd.RBD_MIRROR_MODE_DISABLED:
        return {}
    return {status["id"]: status for status in pool.rbd.RBD().mirror_image_status_list(pool.io)}


def is_primary(pool: Pool, image: Any) -> bool:
    """Whether an open image is the side that a guest may write to; true of one that is not mirrored."""
    if by_journal(pool, image):
        info = image.mirror_image_get_info()
        return bool(info["primary"]) or info["state"] == pool.rbd.RBD_MIRROR_IMAGE_DISABLED
    return not image.features() & NON_PRIMARY


def by_journal(pool: Pool, image: Any) -> bool:
    """Whether, if it is mirrored, that may be by its journal."""
    return bool(image.features() & pool.rbd.RBD_FEATURE_JOURNALING)


def described(status: Mapping[str, Any], *, primary: bool) -> Mirror:
    """A status as plans and people see it. On the primary side the others tell how far they are, else it itself."""
    told = status["remote_statuses"] if primary else [status]
    return Mirror(primary, tuple(_site(each) for each in told))


def _site(told: Mapping[str, Any]) -> MirrorSite:
    state = _STATES[told["state"]] if 0 <= told["state"] < len(_STATES) else "unknown"
    said, _, details = str(told["description"]).partition(", ")
    return MirrorSite(state, bool(told["up"]), _instant(details), "" if said == state else said)


def _instant(details: str) -> datetime | None:
    """Of the newest state that the copy has in full; None where that is not told, as with journals.

    Seen on 16.2.15: what has been brought is `local_snapshot_timestamp`; an idle copy has the remote one's too.
    """
    try:
        found = orjson.loads(details)
        idle = found.get("replay_state") == "idle"
        seconds = found["remote_snapshot_timestamp"] if idle else found["local_snapshot_timestamp"]
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def refuse_mirrored(pool: Pool, image: Any, dataset: str) -> None:
    """Raise Refused if rbd-mirror keeps an open image."""
    if image.mirror_image_get_info()["state"] != pool.rbd.RBD_MIRROR_IMAGE_DISABLED:
        raise kept_by_mirror(dataset)
