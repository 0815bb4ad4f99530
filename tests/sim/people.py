"""What people do about snapshots in a run: policies that they write, change and delete, and points that they ask for.

Apart from `faults`, so that a seed's faults stay what they were. The checker asks here what was in force when.
"""

from dataclasses import replace
from datetime import UTC, datetime

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.model.request import PointName, Request
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.planning import retention

from .cluster import KEYS, Cluster
from .schedule import Act, PolicySpec
from .zfs import Storage

HEARD_WITHIN = 100.0
"""Seconds in which every agent has heard of a change, cuts from etcd included."""


class People:
    """Writes a schedule's snapshot policies, and acts when its acts fall due."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self.policies = {spec.name: spec for spec in cluster.schedule.snapshots}
        """In force."""
        self._versions: dict[str, list[tuple[Keep, Keep]]] = {}
        """Policy → (rule on the owner, rule on replicas) of every version that there was."""
        self._gone: dict[str, float] = {}
        """Policy → when it was deleted."""
        self._deleted: set[tuple[int, PointId, datetime]] = set()
        self.last_act = max((act.at + act.seconds for act in cluster.schedule.acts), default=0.0)
        """True time after which nobody acts any more."""
        for act in cluster.schedule.acts:
            self._world.loop.after(act.at, self._act, act)

    def write_all(self) -> None:
        for spec in self.policies.values():
            self._put(spec)

    def _put(self, spec: PolicySpec) -> None:
        keep, there = Keep.parse(spec.keep), Keep.parse(spec.replicas) if spec.replicas else None
        policy = SnapshotPolicy(
            selector=Selector(all=True), every=spec.every, keep=keep, replicas=there, prefix=spec.prefix
        )
        self.policies[spec.name] = spec
        self._versions.setdefault(spec.name, []).append((keep, policy.keep_on_replicas))
        self._cluster.put("policies", spec.name, policy.to_json())

    def _act(self, act: Act) -> None:
        self._world.tell("PEOPLE", act.what, vmid=act.vmid)
        _ACTS[act.what](self, act)

    def _change(self, act: Act) -> None:
        """A policy keeps fewer, or more."""
        for spec in list(self.policies.values())[:1]:
            self._put(replace(spec, keep=f"last={1 + int(act.amount * 5)}"))

    def _drop(self, act: Act) -> None:
        """A policy is deleted: what it has taken stays."""
        for name in list(self.policies)[-1:]:
            del self.policies[name]
            self._gone[name] = self._world.now
            self._cluster.service.etcd.delete(KEYS.desired("policies", name))

    def _ask(self, act: Act) -> None:
        """A person wants a snapshot."""
        request = Request(action="snapshot", vmid=act.vmid, asked=self._world.wall(), note="by hand")
        self._cluster.put("requests", f"ask-{act.vmid}-{int(act.at * 1000)}", request.to_json())

    def _delete(self, act: Act) -> None:
        """A person wants one of the points gone; with it goes the request by which it was taken."""
        storage = self._world.machines[self._cluster.specs[act.vmid].node].storage
        points = [p for a in storage.marked().items() if a[0][1] == act.vmid for p in a[1].points.values()]
        under_way = self._cluster.rollbacks  # of which nobody has heard yet that they are done
        chosen = [p for p in points if (p.request or p.policies) and p.request not in under_way]
        if not chosen:
            return
        point = chosen[int(act.amount * len(chosen)) % len(chosen)]
        self._deleted.add((act.vmid, point.id, point.instant))
        if point.request:
            self._cluster.service.etcd.delete(KEYS.desired("requests", point.request))
        name = PointName(epoch=point.epoch, sequence=point.sequence, instant=point.instant)
        request = Request(action="delete", vmid=act.vmid, asked=self._world.wall(), point=name)
        self._cluster.put("requests", f"delete-{act.vmid}-{int(act.at * 1000)}", request.to_json())

    def _crowd(self, act: Act) -> None:
        """Somebody fills the pools of the guest's node for a while."""
        storage = self._world.machines[self._cluster.specs[act.vmid].node].storage
        storage.crowd(self._world.now)
        self._world.loop.after(act.seconds, storage.crowd, None)

    # --- what was in force

    def keeps(self, storage: Storage, vmid: int, point: RecoveryPoint, points: list[RecoveryPoint]) -> str | None:
        """By which rule this point has to stay there, whichever version of it is known; None: by none."""
        if self.unwanted(vmid, point):
            return None
        if point.request is not None:
            return "a person asked for it"
        for name in point.policies:
            if self._world.now - self._gone.get(name, self._world.now) > HEARD_WITHIN:
                return f"{name}, which was deleted"
            theirs = [p for p in points if name in p.policies]
            left = [p for p in theirs if not self.unwanted(vmid, p)]
            on_owner = storage.node == self._cluster.specs[vmid].node
            rules = [keep if on_owner else there for keep, there in self._versions[name]]
            if all(self._by(rule, point, known) for rule in rules for known in (theirs, left)):
                return name
        return None

    def unwanted(self, vmid: int, point: RecoveryPoint) -> bool:
        """Whether somebody has asked for its deletion."""
        return (vmid, point.id, point.instant) in self._deleted

    def ruled(self, storage: Storage, vmid: int, points: list[RecoveryPoint]) -> set[PointId]:
        """Which of a guest's points there the rules of now keep."""
        return {point.id for point in points if self._ruled(storage, vmid, point, points)}

    def _ruled(self, storage: Storage, vmid: int, point: RecoveryPoint, points: list[RecoveryPoint]) -> bool:
        if self.unwanted(vmid, point):
            return False
        if point.request is not None or any(name not in self.policies for name in point.policies):
            return True
        on_owner = storage.node == self._cluster.specs[vmid].node
        for name in point.policies:
            theirs = [p for p in points if name in p.policies and not self.unwanted(vmid, p)]
            keep, there = self._versions[name][-1]
            if self._by(keep if on_owner else there, point, theirs):
                return True
        return False

    @staticmethod
    def _by(rule: Keep, point: RecoveryPoint, points: list[RecoveryPoint]) -> bool:
        decided = retention.apply(rule, [(p.instant, str(p.id)) for p in points], _ZONE)
        return any(d.keep and d.name == str(point.id) for d in decided)


_ZONE = UTC
_ACTS = {
    "change": People._change,
    "drop": People._drop,
    "ask": People._ask,
    "delete": People._delete,
    "crowd": People._crowd,
}
