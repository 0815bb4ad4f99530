"""What is marked about a guest on a pool: one RADOS object, whose omap has what a ZFS anchor has as properties.

Guards invariant 5, stale actors are powerless: every change is one write operation that first compares the epoch, the
node and the lock's token which the object bears, so the check and the change are one transaction of the OSD. A shared
storage is seen by all nodes, so an anchor also names the one node whose marks these are: the owner, or the holder of
the replica. Whoever comes with a later epoch takes it over; with the same or an earlier one only that node gets
through. Of the holders of the guest's lock only the latest that has shown its token does; what changes no volume, and
all on a replica, bears none.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.agent.ports import LockToken, Refused, VolumesError
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.cluster import Pool, number_of
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.observed import Anchor
from pydantic import ValidationError

OWNER = "owner"
"""`EPOCH NODE`, and the TOKEN of the lock once a holder has shown it: one key, because all are compared at once."""
POINT = "point."
SENT = "sent."
DEFINITION = "definition."
TAKING = "taking."
"""A point whose snapshots are about to be made: if it never becomes a point, they are known to be ours."""

_PAGE = 1000
"""Keys per read; an OSD gives 1,024 at most (osd_max_omap_entries_per_request)."""
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Marks:
    """An anchor's omap as it was read, and the object's version then."""

    values: Mapping[str, str]

    @property
    def epoch(self) -> int:
        """The lowest epoch that may change anything."""
        return int(self._owner[0] or 0)

    @property
    def node(self) -> str:
        """Whose marks these are."""
        return self._owner[1]

    @property
    def token(self) -> LockToken | None:
        """Of the latest holder of the guest's lock that has changed anything."""
        return LockToken.parse(self._owner[2]) if self._owner[2] else None

    @property
    def _owner(self) -> tuple[str, str, str]:
        epoch, node, token, *_ = (*self.values.get(OWNER, "").split(" "), "", "", "")
        return epoch, node, token

    def anchor(self, pool: str, vmid: int) -> Anchor:
        """What plans see of it."""
        return Anchor(
            pool,
            vmid,
            self.epoch,
            tuple(sorted(self._points(), key=lambda p: p.id)),
            dict(self._sent()),
            {k.removeprefix(DEFINITION): v for k, v in self.values.items() if k.startswith(DEFINITION)},
        )

    def _points(self) -> Iterable[RecoveryPoint]:
        for key, value in self.values.items():
            if key.startswith(POINT):
                try:
                    yield RecoveryPoint.model_validate_json(value)
                except ValidationError:  # written by another version: not a point to us, and never destroyed by us
                    continue

    def _sent(self) -> Iterable[tuple[str, PointId]]:
        for key, value in self.values.items():
            if key.startswith(SENT):
                try:
                    yield key.removeprefix(SENT), PointId.parse(value)
                except ValueError:
                    continue

    @property
    def unfinished(self) -> dict[str, tuple[str, ...]]:
        """Snapshot's name → images on which a point that was not recorded may have left it."""
        return {k.removeprefix(TAKING): tuple(v.split()) for k, v in self.values.items() if k.startswith(TAKING)}


def read(pool: Pool, vmid: int) -> Marks | None:
    """What is marked about a guest; None if nothing is."""
    try:
        return Marks(_omap(pool, names.anchor(vmid)))
    except pool.rados.ObjectNotFound:
        return None


def index(pool: Pool) -> dict[int, str]:
    """VMID → node, of every guest that is marked in this pool and namespace."""
    try:
        found = _omap(pool, names.INDEX)
    except pool.rados.ObjectNotFound:
        return {}
    return {int(vmid): node for vmid, node in found.items() if vmid.isdecimal()}


def make(pool: Pool, vmid: int, me: str) -> None:
    """Make an anchor that nobody owns yet, if there is none."""
    with pool.rados.WriteOpCtx() as op:
        pool.io.set_omap(op, (str(vmid),), (me.encode(),))
        pool.io.operate_write_op(op, names.INDEX)
    try:
        with pool.rados.WriteOpCtx() as op:
            op.new(pool.rados.LIBRADOS_CREATE_EXCLUSIVE)
            pool.io.set_omap(op, (OWNER,), (f"0 {me}".encode(),))
            pool.io.operate_write_op(op, names.anchor(vmid))
    except pool.rados.ObjectExists:
        return


def change(
    pool: Pool,
    vmid: int,
    me: str,
    epoch: int,
    values: Mapping[str, str],
    gone: Sequence[str] = (),
    token: LockToken | None = None,
) -> None:
    """Set and remove marks, in one transaction that checks epoch, node and token. Raises Refused, or VolumesError."""
    pool.io.set_osdmap_full_try()  # what frees a full pool is marked first
    for _ in range(_TRIES):
        marks = read(pool, vmid)
        if marks is None:
            raise VolumesError(f"{names.anchor(vmid)} has gone since it was last seen; it is looked for again.")
        _check(marks, vmid, me, epoch, token)
        if marks.node != me:
            make(pool, vmid, me)  # the index leads to the node that has it now
        shown = token or marks.token
        wanted = {**values, OWNER: " ".join(map(str, filter(None, (epoch or "0", me, shown))))}
        try:
            with pool.rados.WriteOpCtx() as op:
                op.omap_cmp(OWNER, marks.values.get(OWNER, ""))
                pool.io.set_omap(op, tuple(wanted), tuple(value.encode() for value in wanted.values()))
                if gone:
                    pool.io.remove_omap_keys(op, tuple(gone))
                pool.io.operate_write_op(op, names.anchor(vmid))
        except Exception as error:
            if number_of(error) != errno.ECANCELED:
                raise
        else:
            return
    raise VolumesError(f"{names.anchor(vmid)} changed {_TRIES} times while it was to be changed; it is tried again.")


def _check(marks: Marks, vmid: int, me: str, epoch: int, token: LockToken | None) -> None:
    if marks.epoch > epoch:
        raise Refused(
            "EpochRefused",
            f"the storage is marked with epoch {marks.epoch}, which is later: another node owns the guest now.",
        )
    if marks.epoch == epoch and marks.node != me:
        raise Refused(
            "KeptByOther",
            f"guest {vmid} is kept on this pool by node {marks.node}, under the same epoch {epoch}. Replicate it to"
            " another pool or namespace.",
        )
    if token is not None and marks.token is not None and marks.token > token:
        raise Refused(
            "LockLost",
            f"the guest's lock has had another holder since (token {marks.token}, this one's is {token});"
            " what was begun is gone on with under the next lock.",
        )


def _omap(pool: Pool, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    last = ""
    while True:
        with pool.rados.ReadOpCtx() as op:
            page, _ = pool.io.get_omap_vals(op, last, "", _PAGE)
            pool.io.operate_read_op(op, name)
            # of an empty value, as a definition may be, the binding makes None
            items = {key: bytes(value or b"").decode(errors="replace") for key, value in page}
        found |= items
        if len(items) < _PAGE:
            return found
        last = max(items)
