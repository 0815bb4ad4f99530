"""What has to hold once faults have stopped, each a named check (`checks` has those that hold at every step).

`converges`: lag falls below the RPO within a bound; `bounded leftovers`; `snapshots fall due`: each policy has a new
one in time, where the guest runs and on its replicas; `true reports`; `bad input is contained`: nobody complains of it
still.
"""

import orjson
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.report import GuestReport
from holdfast.coordinator.planning.observed import is_rbd

from .checks import Checks
from .cluster import KEYS, Cluster
from .people import People
from .points import complete, counters, guest_of, records_of


class Settled:
    """Looks at one cluster in the end."""

    def __init__(self, cluster: Cluster, people: People, checks: Checks) -> None:
        self._cluster = cluster
        self._people = people
        self._checks = checks
        self._world = cluster.world

    def unsettled(self) -> list[str]:
        """What does not hold yet, though faults have stopped; empty: all is well."""
        found = []
        for vmid in self._cluster.guests:
            if (vmid, "converges") in self._checks.excused or self._asks_for_help(vmid):
                continue
            for node in self._cluster.nodes:
                storage = self._world.machines[node].storage
                for point in complete(storage, vmid):
                    self._checks.check_point(storage, vmid, point)
                if node != self._cluster.specs[vmid].node:
                    found += self._lagging(vmid, node)
            found += self._leftovers(vmid) + self._undeleted(vmid) + self._overdue(vmid)
        found += [f"converges: {id} is not settled" for id in sorted(self._cluster.rollbacks)]
        return found + self._untrue() + self._problems()

    def _asks_for_help(self, vmid: int) -> bool:
        """Where somebody has destroyed our snapshots, it may take a person; the condition says what to do."""
        item = self._cluster.service.etcd.get(KEYS.guest_report(self._cluster.specs[vmid].node, vmid))
        if item is None or (vmid, "a base survives") not in self._checks.excused:
            return False
        reasons = {c.reason for c in GuestReport.model_validate_json(item.value).conditions}
        return "ReplicaHasOtherSnapshots" in reasons

    def _lagging(self, vmid: int, node: str) -> list[str]:
        guest = self._cluster.guests[vmid]
        storage = self._world.machines[node].storage
        points = complete(storage, vmid)
        if not points:
            return [f"converges: {node} has no complete point of {vmid}"]
        newest = points[-1]
        if {m.disk for m in newest.members} != {*guest.disks, *guest.still}:
            return [f"converges: the newest point of {vmid} on {node} has disks {newest.disks}"]
        since = guest.stale_since(min(counters(storage, newest, guest.disks).values()))
        lag = self._world.now - since if since is not None else 0.0
        if lag > self._cluster.rpo:
            return [f"converges: {vmid} on {node} lags {lag:.0f} s, RPO {self._cluster.rpo:.0f} s"]
        return []

    def _overdue(self, vmid: int) -> list[str]:
        """Policies whose newest snapshot is too old, where the guest runs or on a replica."""
        if vmid in self._checks.owner_changed:
            return []
        found = []
        home = self._world.machines[self._cluster.specs[vmid].node]
        for name, spec in self._people.policies.items():
            for node in self._cluster.nodes:
                points = [p for p in complete(self._world.machines[node].storage, vmid) if name in p.policies]
                age = (self._world.wall(home) - points[-1].instant).total_seconds() if points else None
                allowed = spec.every * 1.05 + (2 if node == home.name else 2 + spec.every + self._cluster.rpo)
                if age is None or age > allowed:
                    found.append(f"snapshots fall due: {name} has none of {vmid} on {node} for {age} s")
        return found

    def _leftovers(self, vmid: int) -> list[str]:
        found = []
        targets = len(self._cluster.nodes) - 1
        keep = self._cluster.schedule.keep
        for machine in self._world.machines.values():
            points = [records[0] for records in records_of(machine.storage, vmid).values()]
            whole = complete(machine.storage, vmid)  # fragments are kept beside them
            ruled = len(
                self._people.ruled(machine.storage, vmid, points) | self._people.ruled(machine.storage, vmid, whole)
            )
            for dataset in machine.storage.everything():
                if guest_of(dataset) != vmid or "aside" in dataset.name:
                    continue
                if is_rbd(dataset.name) and not dataset.mark and machine.name != self._cluster.specs[vmid].node:
                    continue  # shared: it is looked at once
                ours = sum(not s.foreign for s in dataset.snaps.values())
                allowed = keep + 3 if dataset.mark else 2 + 2 * targets
                allowed += ruled + sum(
                    (d.origin or "").startswith(f"{dataset.name}@") for d in machine.storage.everything()
                )
                if ours > allowed:
                    found.append(f"bounded leftovers: {ours} snapshots of {dataset.name} on {machine.name}")
                if len(dataset.marks) > 2 + targets and dataset.name not in self._cluster.guests[vmid].retired.values():
                    found.append(f"bounded leftovers: {len(dataset.marks)} bookmarks of {dataset.name}")
            for (_, owner), anchor in machine.storage.marked().items():
                if owner == vmid and len(anchor.points) > keep + 3 + 2 * targets + ruled:
                    found.append(f"bounded leftovers: {len(anchor.points)} points of {vmid} on {machine.name}")
                if owner == vmid and len(anchor.definitions) > len(anchor.points) + 2:
                    found.append(f"bounded leftovers: {len(anchor.definitions)} definitions on {machine.name}")
        return found

    def _undeleted(self, vmid: int) -> list[str]:
        """Points that were to be deleted, and that nothing needs: no node's newest, no base, no clone's origin."""
        storages = [machine.storage for machine in self._world.machines.values()]
        newest = {points[-1].id for storage in storages if (points := complete(storage, vmid))}
        needed = {d.newest.guid for storage in storages for d in storage.everything() if d.newest}
        for storage in storages:
            origins = {d.origin for d in storage.everything()}
            for dataset in storage.everything():
                needed |= {s.guid for s in dataset.snaps.values() if f"{dataset.name}@{s.name}" in origins}
        found = []
        for storage in storages:
            for id, records in records_of(storage, vmid).items():
                free = all(member.guid not in needed for point in records for member in point.members)
                if self._people.unwanted(vmid, records[0]) and id not in newest and free:
                    found.append(f"bounded leftovers: {id} of {vmid} on {storage.node} was to be deleted")
        return found

    def _untrue(self) -> list[str]:
        """Reports that say more than there is."""
        found = []
        for item in self._cluster.service.etcd.list(f"{KEYS.root}agents/").items:
            node, _, rest = item.key.removeprefix(f"{KEYS.root}agents/").partition("/")
            if not rest.startswith("guests/"):
                continue
            vmid = int(rest.removeprefix("guests/"))
            if (vmid, "converges") in self._checks.excused or node != self._cluster.specs[vmid].node:
                continue
            for target in GuestReport.model_validate_json(item.value).targets:
                there = complete(self._world.machines[target.node].storage, vmid)
                newest = there[-1].id if there else PointId(0, 0)
                if target.last and PointId(target.last.epoch, target.last.sequence) > newest:
                    found.append(f"true reports: {node} says {target.node} has {target.last} of {vmid}: {newest}")
        return found

    def _problems(self) -> list[str]:
        """Bad records are corrected in the end: nobody may still complain of one."""
        found = []
        for node in self._cluster.nodes:
            item = self._cluster.service.etcd.get(KEYS.agent(node))
            problems = orjson.loads(item.value).get("problems") if item else None
            if problems:
                found.append(f"bad input is contained: {node} still reports {problems}")
        return found
