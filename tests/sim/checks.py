"""The invariants of DESIGN §2, as far as the code has them, each a named check; told of every step on any storage.

What is looked at when all is quiet is in `settled`: 8, `snapshots fall due`, `bad input is contained`, most of 6.

1. `one owner per epoch`: an owner's record changes only with a higher epoch.
2. `no mixture`: in every complete point, anywhere, A >= B >= C >= A - 1; `only what was promoted is sent`.
3. `nothing foreign destroyed`: no snapshot that Holdfast did not make, no newest complete point of a replica, no head.
4. `a base survives`: what the newest snapshot of a replica can be gone on from stays on the owner; a bookmark is
   enough for a disk that the target's newest point lacks, and on RBD, which has none, nothing is kept of it.
   `no full resend`, unless the replica was set aside because the guest had no such disk. `no byte twice`: bytes of
   streams stay within 1.2 x what changed, plus 1 MiB; what came of a cut one does not count on RBD.
   `single writer`, `nothing lost`: no disk is renamed under its guest, or without a snapshot of it.
5. `stale epoch`: nothing is recorded under an epoch lower than the storage or, for long, etcd bears.
6. `true reports`: what an agent reports is there.
7. `bad input is contained`, `no worker fails`, `no process ends by itself`, `no busy loop`.
8. `converges`: when faults have stopped, lag falls below the RPO within a bound; `bounded leftovers`.
9. `retention`: nothing goes that a rule keeps; `snapshots fall due`: each policy has a new one in time, where the guest
   runs and on its replicas; `free-space guard`: but not where there is no room.
"""

from collections import Counter
from dataclasses import dataclass, field

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.model.report import RequestReport, RequestState
from holdfast.coordinator.planning.admission import allowed_datasets
from holdfast.coordinator.planning.observed import is_rbd

from .cluster import KEYS, Cluster
from .datasets import Dataset, Mark, Snap, Stream
from .people import People
from .points import complete, counters, guest_of, records_of, whole
from .zfs import Audit, Storage

MIB = 1 << 20
HEARD_LATE = 20.0
"""Seconds: who was cut off from etcd meanwhile hears of it so much later, and a command is under way still."""
SEEN_WITHIN = 10.0
"""Seconds in which an agent that takes a point has looked at the pool; not counted while commands hang, or it itself
is stopped."""
LONG_KNOWN = 60.0
"""Seconds: no agent is so far behind etcd, or in so long a command, that it may act for an owner of before."""
CUT_OFF = LONG_KNOWN + HEARD_LATE + 15.0
"""Seconds for which an owner that loses its guest does not hear of it; the others are to refuse it by then."""


@dataclass(slots=True)
class _Wanted:
    """The points that people want a guest back to, and have not heard of yet."""

    points: list[RecoveryPoint] = field(default_factory=list)
    crossed: bool = False
    """There were two at a time: what the guest is in the end is either."""


class Checks(Audit):
    """Watches one cluster."""

    def __init__(self, cluster: Cluster, people: People) -> None:
        self._cluster = cluster
        self._people = people
        self._world = cluster.world
        self._synced: set[tuple[str, int, str]] = set()
        """(node, VMID, slot) that have had a whole snapshot."""
        self._bytes: Counter[tuple[str, int, str, int]] = Counter()
        self.lossy: Counter[str] = Counter()
        """Node → power cuts, each of which may lose what was half received."""
        self.excused: set[tuple[int, str]] = set()
        """(VMID, check): a fault has made this impossible."""
        self._wanted: dict[int, _Wanted] = {}
        self.owner_changed: dict[int, float] = {}
        self.awake: dict[str, float] = {}
        """Node → when its agent goes on, or went on, that was stopped last."""
        self._decided: dict[tuple[str, int], frozenset[str]] = {}
        """(node, VMID) → the replicas of disks that the guest had, as the node knew when it last decided what goes."""
        self._returned: dict[tuple[int, str], PointId] = {}
        """(VMID, slot) of a disk that was pulled out → the newest point at its return: it was not written meanwhile."""
        cluster.watched_by(self)
        cluster.on_exit = self._ended
        self._world.loop.on_spin = lambda: self._violated("no busy loop", "much is done and no time passes")
        cluster.service.etcd.on_put = self._put

    def excuse(self, vmid: int, *checks: str) -> None:
        self.excused |= {(vmid, check) for check in checks}

    def returned(self, vmid: int, slot: str) -> None:
        """A disk is written again that was pulled out; an agent may have taken points before it had heard of that."""
        records = records_of(self._world.machines[self._cluster.specs[vmid].node].storage, vmid)
        self._returned[vmid, slot] = max(records, default=PointId(0, 0))

    def _violated(self, check: str, what: str, vmid: int | None = None) -> None:
        if vmid is None or (vmid, check) not in self.excused:
            self._world.violated(check, what)

    # --- processes and etcd

    def _ended(self, name: str, error: BaseException | None) -> None:
        self._violated("no process ends by itself", f"{name} ended: {error!r}")

    def logged(self, name: str, event: str, details: dict[str, object]) -> None:
        """An agent or coordinator has logged an exception."""
        if event.startswith(("a guest's worker failed", "a request failed in a way")):
            self._violated("no worker fails", f"{name}, guest {details.get('vmid')}: {details.get('exception')}")

    def _put(self, key: str, value: bytes) -> None:
        if not key.startswith(KEYS.owners_prefix):
            return
        before = self._cluster.service.etcd.get(key)
        if before is None:
            return
        old, new = Owner.model_validate_json(before.value), Owner.model_validate_json(value)
        if new.epoch <= old.epoch:
            self._violated("one owner per epoch", f"{key}: {old.node} at {old.epoch}, then {new.node} at {new.epoch}")

    # --- points

    def recorded(self, storage: Storage, vmid: int, point: RecoveryPoint, epoch: int, marked: int) -> None:
        if marked > epoch:
            self._violated("stale epoch", f"{point.id} of {vmid} under {epoch} on {storage.node}, marked {marked}")
        agent = self._cluster.agents.get(storage.node)
        owner = agent._view.owner(vmid) if agent else None
        changed = self.owner_changed.get(vmid, self._world.now)
        late = HEARD_LATE + (CUT_OFF if storage.node == self._cluster.specs[vmid].node else LONG_KNOWN)
        if owner is not None and owner.epoch > epoch and self._world.now - changed > late:
            self._violated("stale epoch", f"{point.id} of {vmid} under {epoch} on {storage.node}, which knows {owner}")
        since = None if storage.crowded is None else max(storage.crowded, self.awake.get(storage.node, 0.0))
        crowded = since is not None and self._world.now - since > SEEN_WITHIN
        on_zfs = not all(is_rbd(m.dataset) for m in point.members)
        if crowded and on_zfs and point.policies and storage.node == self._cluster.specs[vmid].node:
            self._violated("free-space guard", f"{point.id} of {vmid} is taken for {point.policies}")
        records = records_of(storage, vmid).get(point.id)
        if records is None:
            self._violated("nothing foreign destroyed", f"{point.id} of {vmid} is forgotten as soon as it is recorded")
        elif there := whole(storage, records):
            self.check_point(storage, vmid, there)

    def check_point(self, storage: Storage, vmid: int, point: RecoveryPoint) -> None:
        spec = self._cluster.specs[vmid]
        if (spec.spread or spec.rbd) and point.consistency == "none":
            return  # it says itself that it is none
        found = counters(storage, point, self._cluster.guests[vmid].disks).items()
        values = [n for slot, n in found if point.id > self._returned.get((vmid, slot), PointId(0, 0))]
        if values != sorted(values, reverse=True) or (values and values[-1] < values[0] - 1):
            self._violated("no mixture", f"{point.id} of {vmid} on {storage.node} shows {values}", vmid)

    # --- storage

    def _gone(self, storage: Storage, dataset: Dataset) -> bool:
        """Whether a replica is of a disk that the guest did not have any more, when the node last decided what goes."""
        decided = self._decided.get((storage.node, int(dataset.mark.partition("/")[0])))
        return decided is not None and dataset.name not in decided

    def _begins_anew(self, storage: Storage, dataset: Dataset) -> None:
        vmid, _, slot = dataset.mark.partition("/")
        self._synced.discard((storage.node, int(vmid), slot))

    def committing(self, storage: Storage, vmid: int) -> None:
        assignment = self._cluster.agents[storage.node]._view.assignment_here(vmid)
        self._decided[storage.node, vmid] = allowed_datasets(assignment)

    def destroyed(self, storage: Storage, dataset: Dataset, what: Snap | Mark) -> None:
        vmid = guest_of(dataset)
        if isinstance(what, Snap):
            self._check_retention(storage, vmid, dataset, what)
            if what.foreign or PointId.of_snapshot(what.name) is None:
                self._violated("nothing foreign destroyed", f"{dataset.name}@{what.name} on {storage.node}")
            if dataset.mark and self._newest_before(storage, vmid, what.guid) is not None:
                self._violated("nothing foreign destroyed", f"{dataset.name}@{what.name} is of the newest point", vmid)
            if dataset.mark:  # it comes once more if the guest goes back to it
                self._bytes.pop((storage.node, vmid, dataset.mark.partition("/")[2], what.guid), None)
        if dataset.mark and isinstance(what, Snap) and (dataset.newest is None or dataset.newest.txg < what.txg):
            if self._gone(storage, dataset):
                self._begins_anew(storage, dataset)
            else:
                said = f"{dataset.name}@{what.name} on {storage.node} was its newest"
                self._violated("a base survives", said, vmid)
        if dataset.mark or (vmid, "a base survives") in self.excused:
            return
        for machine in self._world.machines.values():
            for replica in machine.storage.replicas(vmid):
                if machine.storage is storage or replica.newest is None or replica.newest.guid != what.guid:
                    continue
                slot = self._slot(vmid, dataset.name)
                if replica.mark != f"{vmid}/{slot}":
                    continue
                snapshot = dataset.by_guid(what.guid) is not None
                bookmark = any(m.guid == what.guid for m in dataset.marks.values())
                if (vmid, "targets") in self.excused and not complete(machine.storage, vmid):
                    # its first point was on the way when its policy went, and nothing says so after a restart
                    self.excuse(vmid, "a base survives", "no full resend")
                if is_rbd(dataset.name) and not snapshot and not self._counts(machine.storage, vmid, slot):
                    self._begins_anew(machine.storage, replica)  # RBD has no bookmark to be gone on from
                    continue
                if not (snapshot or bookmark):
                    self._violated("a base survives", f"{dataset.name}: {machine.name} has nothing to go on from", vmid)
                if not snapshot and self._is_target(vmid, machine.name) and self._counts(machine.storage, vmid, slot):
                    self._violated("a base survives", f"{dataset.name}: no snapshot that {machine.name} has", vmid)

    def _check_retention(self, storage: Storage, vmid: int, dataset: Dataset, gone: Snap) -> None:
        """None of the points that had this snapshot may have to stay."""
        if vmid in self.owner_changed or (vmid, "a base survives") in self.excused:
            return
        recorded = records_of(storage, vmid).values()
        points = [records[0] for records in recorded]
        for records in recorded:
            had = any(m.guid == gone.guid for p in records for m in p.members)
            if had and (rule := self._people.keeps(storage, vmid, records[0], points)):
                self._violated("retention", f"{dataset.name}@{gone.name} on {storage.node} is kept by {rule}")

    def _newest_before(self, storage: Storage, vmid: int, guid: int) -> RecoveryPoint | None:
        """The newest recorded point that would be complete but for this snapshot, if there is no newer complete one."""
        records = records_of(storage, vmid)
        for id in sorted(records, reverse=True):
            if whole(storage, records[id]):
                return None
            for point in records[id]:
                others = [m for m in point.members if m.guid != guid]
                if len(others) < len(point.members) and all(
                    (d := storage.dataset(m.dataset)) and d.by_guid(m.guid) for m in others
                ):
                    return point
        return None

    def _counts(self, storage: Storage, vmid: int, slot: str) -> bool:
        """Whether a node's newest point has this disk."""
        points = complete(storage, vmid)
        return not points or points[-1].member(slot) is not None

    def _slot(self, vmid: int, dataset: str) -> str:
        guest = self._cluster.guests[vmid]
        return next((s for s, d in {**guest.disks, **guest.still, **guest.retired}.items() if d == dataset), "?")

    def _is_target(self, vmid: int, node: str) -> bool:
        return (vmid, "targets") not in self.excused and node != self._cluster.specs[vmid].node

    def renamed(self, storage: Storage, dataset: Dataset, to: str) -> None:
        if not dataset.mark and storage is self._cluster.guests[guest_of(dataset)].machine.storage:
            self._goes_aside(storage, dataset)
            return
        if not dataset.mark:
            self._violated("nothing foreign destroyed", f"{dataset.name} on {storage.node} is no replica; now {to}")
        elif self._gone(storage, dataset):
            self._begins_anew(storage, dataset)

    def rewinds(self, storage: Storage, dataset: Dataset) -> None:
        """An image is rolled back: a replica, or what lies aside, which no guest can be started from."""
        if not dataset.mark and "aside" not in dataset.name:
            self._violated("single writer", f"{dataset.name} on {storage.node} is rolled back under its guest")

    def trashed(self, storage: Storage, dataset: Dataset) -> None:
        """An image goes to Ceph's trash: only what a first stream has left on this node, which has no snapshot."""
        if not any(dataset is replica for replica in storage.replicas(guest_of(dataset))) or dataset.snaps:
            self._violated("nothing foreign destroyed", f"{storage.node} moves {dataset.name} to the trash")

    def removed(self, storage: Storage, dataset: Dataset) -> None:
        """An image is gone for good: only one that has never been more than a name."""
        if dataset.image.written:
            self._violated("nothing foreign destroyed", f"{storage.node} removes {dataset.name}")

    # --- rollback

    def rolls_back(self, vmid: int, point: RecoveryPoint) -> None:
        """Somebody has asked for it. What only its replicas' later points have in common with it is sent in full."""
        wanted = self._wanted.setdefault(vmid, _Wanted())
        wanted.points.append(point)
        wanted.crossed = wanted.crossed or len(wanted.points) > 1

    def _goes_aside(self, storage: Storage, dataset: Dataset) -> None:
        """A guest's own disk is renamed: only when it was asked for, and nobody uses it."""
        vmid = guest_of(dataset)
        guest = self._cluster.guests[vmid]
        if vmid not in self._wanted or not guest.off:
            self._violated("single writer", f"{dataset.name} on {storage.node} goes aside under guest {vmid}")
        newest = dataset.newest
        if newest is None or newest.image != dataset.image:
            self._violated("nothing lost", f"{dataset.name} on {storage.node} goes aside without a snapshot of it")
        mark = f"{vmid}/{self._slot(vmid, dataset.name)}"
        replicas = [r for m in self._world.machines.values() for r in m.storage.replicas(vmid) if r.mark == mark]
        for point in self._wanted.get(vmid, _Wanted()).points:
            member = next((m for m in point.members if m.dataset == dataset.name), None)
            snap = dataset.by_guid(member.guid) if member else None
            older = {s.guid for s in dataset.snaps.values() if snap is not None and s.txg <= snap.txg}
            if any(older.isdisjoint(s.guid for s in replica.snaps.values()) for replica in replicas):
                self.excuse(vmid, "no full resend", "no byte twice")

    def cloned(self, storage: Storage, dataset: Dataset) -> None:
        """From the moment that all disks are there again a person can start the guest."""
        vmid = guest_of(dataset)
        disks = [storage.dataset(d) for d in self._cluster.guests[vmid].disks.values()]
        if dataset.mark or None in disks:
            return
        values = [d.image.counter for d in disks if d is not None]
        if values != sorted(values, reverse=True) or values[-1] < values[0] - 1:
            self._violated("no mixture", f"guest {vmid} on {storage.node} could be started from {values}")

    def rolled_back(self, vmid: int, point: RecoveryPoint, said: RequestReport) -> None:
        """It is settled: the guest is what it was, or what it was to be."""
        wanted = self._wanted[vmid]
        wanted.points.remove(point)
        if not wanted.points:
            del self._wanted[vmid]
        storage = self._cluster.guests[vmid].machine.storage
        if said.state is not RequestState.DONE or wanted.crossed or (vmid, "a base survives") in self.excused:
            return  # refused; or somebody has destroyed the point's snapshots since
        for member in point.members:
            dataset = storage.dataset(member.dataset)
            snap = dataset.by_guid(member.guid) if dataset else None
            if dataset is None or snap is None or snap.image.counter != dataset.image.counter:
                self._violated("true reports", f"{member.dataset} is not as at {point.id}, which is said", vmid)

    # --- streams

    def taken(self, storage: Storage, dataset: Dataset) -> None:
        if dataset.mark:  # its disks are each as far as the last transfer got
            self._violated("no mixture", f"a point is taken of {dataset.name} on {storage.node}, which is a replica")

    def sends(self, storage: Storage, dataset: Dataset) -> None:
        if dataset.mark:
            self._violated("only what was promoted is sent", f"{dataset.name} on {storage.node} is a replica")

    def began(self, storage: Storage, dataset: str, mark: str, stream: Stream) -> None:
        vmid, _, slot = mark.partition("/")
        again = (storage.node, int(vmid), slot) in self._synced
        again = again and not (is_rbd(dataset) and not self._counts(storage, int(vmid), slot))  # nothing is kept of it
        if again and not stream.base and stream.offset is None:
            self._violated("no full resend", f"{dataset} on {storage.node} is sent in full again", int(vmid))

    def moved(self, storage: Storage, dataset: str, stream: Stream, count: int) -> None:
        held = storage.there(dataset)
        vmid, _, slot = (held.mark or (held.partial and held.partial.mark) or "0/").partition("/")
        key = (storage.node, int(vmid), slot, stream.guid)
        self._bytes[key] += count
        allowed = 1.2 * stream.total + MIB + self.lossy[storage.node] * stream.total
        if self._bytes[key] > allowed:
            said = f"{self._bytes[key]} bytes of {stream.total} for {dataset}@{stream.name} on {storage.node}"
            self._violated("no byte twice", said, int(vmid))

    def received(self, storage: Storage, dataset: Dataset, stream: Stream) -> None:
        vmid, _, slot = dataset.mark.partition("/")
        self._synced.add((storage.node, int(vmid), slot))
