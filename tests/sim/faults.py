"""Faults: what strikes a cluster, and the tally of which kind struck at which step of the protocol."""

import contextvars
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.planning.observed import is_rbd

from .checks import CUT_OFF, Checks
from .cluster import CEPH, KEYS, POOLS, Cluster
from .guests import SimGuest
from .loop import Process
from .points import complete
from .rollbacks import Person
from .schedule import Fault
from .zfs import Storage

HORIZON = 75.0
"""Seconds after which faults that still wait for their step do not strike any more."""


@dataclass(slots=True)
class _Waiting:
    """A fault that waits for its step, to come so many times yet."""

    number: int
    left: int


class Faults:
    """Strikes when a schedule's faults fall due."""

    def __init__(self, cluster: Cluster, checks: Checks) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._checks = checks
        self._waiting: dict[tuple[str, str], list[_Waiting]] = {}
        self.reached: Counter[tuple[str, str]] = Counter()
        self._good: dict[tuple[str, str], bytes] = {}
        """What people put back where they have spoilt a record."""
        self.quiet_from = 0.0
        """True time from which no fault is at work."""
        self.pending = 0
        """How many have not struck yet."""
        for number, fault in enumerate(cluster.schedule.faults):
            self.pending += 1
            if not fault.chained or number == 0:
                self._arm(number)
        self._world.on_step = self._on_step

    def _arm(self, number: int) -> None:
        """From now on it may strike."""
        fault = self._cluster.schedule.faults[number]
        if fault.at is not None:
            self._world.loop.after(fault.at, self._strike, number, fault.node)
            self.quiet_from = max(self.quiet_from, self._world.now + fault.at + fault.seconds)
        else:
            self._waiting.setdefault((fault.step, fault.phase), []).append(_Waiting(number, fault.nth))

    def _on_step(self, step: str, phase: str, process: Process) -> None:
        waiting = self._waiting.get((step, phase))
        if not waiting:
            return
        if self._world.now > HORIZON:
            return
        for each in list(waiting):
            each.left -= 1
            if each.left <= 0:
                waiting.remove(each)
                contextvars.Context().run(self._strike, each.number, process.name)

    @property
    def over(self) -> bool:
        """Whether all have struck and passed."""
        return self._world.now >= self.quiet_from and (not self.pending or self._world.now > HORIZON)

    def _strike(self, number: int, name: str) -> None:
        faults = self._cluster.schedule.faults
        fault = faults[number]
        self._world.tell("FAULT", fault.kind, at=name, step=fault.step or "-", seconds=fault.seconds)
        self.pending -= 1
        self.reached[fault.kind, fault.step] += 1
        if any(f.chained for f in faults[number + 1 : number + 2]):
            self._arm(number + 1)
        self.quiet_from = max(self.quiet_from, self._world.now + fault.seconds)
        _KINDS[fault.kind](self, fault, name)

    def _later(self, fault: Fault, undo: Callable[..., object], *args: object) -> None:
        self._world.loop.after(fault.seconds, undo, *args)

    # --- machines

    def _crash(self, fault: Fault, name: str) -> None:
        self._cluster.kill(name)
        self._later(fault, self._cluster.start_process, name)

    def _power_cut(self, fault: Fault, name: str) -> None:
        self._checks.lossy[name] += 1
        self._cluster.power_off(name)
        self._later(fault, self._cluster.power_on, name)

    def _stall(self, fault: Fault, name: str) -> None:
        process = self._cluster.running[name]
        process.stopped = True
        self._checks.awake[name] = self._world.now + fault.seconds
        self._later(fault, self._world.loop.go_on, process)

    def _clock_jump(self, fault: Fault, name: str) -> None:
        seconds = (fault.amount - 0.5) * 1200
        self._world.machines[name].jump += seconds

    # --- links

    def _pairs(self, fault: Fault, name: str) -> list[tuple[str, str]]:
        others = [fault.other] if fault.other and fault.other != name else self._cluster.nodes
        return [(name, other) for other in others if other != name]

    def _partition(self, fault: Fault, name: str) -> None:
        for a, b in self._pairs(fault, name):
            self._cut_link(fault, a, b)
            self._cut_link(fault, b, a)

    def _one_way(self, fault: Fault, name: str) -> None:
        for a, b in self._pairs(fault, name):
            self._cut_link(fault, *((a, b) if fault.amount < 0.5 else (b, a)))

    def _cut_link(self, fault: Fault, a: str, b: str) -> None:
        self._cluster.network.cut(a, b)
        self._later(fault, self._cluster.network.heal, a, b)

    def _cut(self, fault: Fault, name: str) -> None:
        """Reset every connection of the machine: those that carry a stream once it has got so far."""
        for connection in list(self._cluster.network.connections):
            if name in (end.machine.name for end in connection.ends):
                if any(end.subject == "send" for end in connection.ends):
                    connection.cut_at = fault.amount
                else:
                    connection.break_()

    # --- etcd

    def _etcd_cut(self, fault: Fault, name: str) -> None:
        self._cut_link(fault, name, "etcd")
        self._cut_link(fault, "etcd", name)

    def _etcd_mute(self, fault: Fault, name: str) -> None:
        self._cut_link(fault, "etcd", name)

    def _etcd_down(self, fault: Fault, name: str) -> None:
        service = self._cluster.service
        service.down = True

        def back() -> None:
            service.down = False
            service.watches_broken += 1
            service.etcd.new_leader()

        self._later(fault, back)

    def _lost_reply(self, fault: Fault, name: str) -> None:
        self._cluster.service.lose[name] = 1 + int(fault.amount * 3)

    def _compaction(self, fault: Fault, name: str) -> None:
        """The machine is cut off; when it comes back, what it missed is gone."""
        self._etcd_cut(fault, name)
        self._cluster.put_policy()
        self._cluster.put_policy()

        def compact() -> None:
            self._cluster.service.etcd.compact(self._cluster.service.etcd.revision)
            self._cluster.service.watches_broken += 1

        self._world.loop.after(max(0.0, fault.seconds - 0.1), compact)

    def _watch_lag(self, fault: Fault, name: str) -> None:
        self._cluster.service.lag[name] = 1 + 9 * fault.amount
        self._later(fault, lambda: self._cluster.service.lag.pop(name, None))

    def _new_leader(self, fault: Fault, name: str) -> None:
        self._cluster.service.etcd.new_leader()
        self._cluster.service.watches_broken += 1

    # --- storage

    def _storage(self, fault: Fault, name: str) -> str:
        """A node with storage: the one that took the step, else the fault's."""
        return name if name in self._cluster.nodes else fault.node

    def _full(self, fault: Fault, name: str) -> None:
        for node in self._cluster.nodes:
            if node != self._cluster.specs[fault.vmid].node:
                storage = self._world.machines[node].storage
                storage.full = True
                self._later(fault, setattr, storage, "full", False)

    def _pool_suspended(self, fault: Fault, name: str) -> None:
        node = self._storage(fault, name)
        self._world.machines[node].storage.suspended = True
        self._later(fault, self._resume_pool, node)

    def _resume_pool(self, node: str) -> None:
        self._checks.awake[node] = self._world.now  # what hung until now was decided before
        self._cluster.resume_pool(node)

    def _ceph_full(self, fault: Fault, name: str) -> None:
        """The pools of replicas are; with a small `amount` that of the guests is."""
        ceph, home = self._cluster.ceph, self._cluster.specs[fault.vmid].node
        if ceph is None:
            return
        full = [CEPH] if fault.amount < 0.3 else [f"{CEPH}-{node}" for node in self._cluster.nodes if node != home]
        for storeid in full:
            ceph.pools[storeid].full = True
            self._later(fault, setattr, ceph.pools[storeid], "full", False)

    def _ceph_down(self, fault: Fault, name: str) -> None:
        """Nobody gets an answer of Ceph."""
        for node in self._cluster.nodes:
            self._no_ceph(fault, node)

    def _ceph_unreached(self, fault: Fault, name: str) -> None:
        """One node gets none."""
        self._no_ceph(fault, self._storage(fault, name))

    def _no_ceph(self, fault: Fault, node: str) -> None:
        if (ceph := self._cluster.ceph) is not None:
            ceph.unreached[node] += 1
            self._later(fault, ceph.unreached.subtract, {node: 1})

    def _command_fails(self, fault: Fault, name: str) -> None:
        """The next commands on the storage say that they failed; half of them have done it all the same."""
        self._world.machines[self._storage(fault, name)].failing += 1 + int(fault.amount * 3)

    def _no_monitor(self, fault: Fault, name: str) -> None:
        """No guest of the machine can be paused."""
        machine = self._world.machines[self._storage(fault, name)]
        machine.mute = self._world.now + fault.seconds

    def _admin_snapshot(self, fault: Fault, name: str) -> None:
        """Somebody snapshots the guest's disks by hand, under a name of their own."""
        guest = self._cluster.guests[fault.vmid]
        for dataset in guest.disks.values():
            guest.machine.storage.snapshot_foreign(dataset, f"before-upgrade-{int(self._world.now)}")

    def _impostor(self, fault: Fault, name: str) -> None:
        """Somebody destroys our newest snapshot and makes one of the same name."""
        guest = self._cluster.guests[fault.vmid]
        if guest.off:
            return  # its disks may be on their way aside
        self._excuse_base(fault.vmid)
        if self._cluster.specs[fault.vmid].rbd:  # a stream of RBD's is exported by the snapshot's name
            self._checks.excuse(fault.vmid, "no mixture", "nothing foreign destroyed")
        for dataset in _in_place(guest)[:1]:
            ours = [s for s in guest.machine.storage.there(dataset).snaps.values() if not s.foreign]
            if ours and not ours[-1].busy:
                guest.machine.storage.destroy_by_admin(dataset, ours[-1].name)
                guest.machine.storage.snapshot_foreign(dataset, ours[-1].name)

    def _admin_destroy(self, fault: Fault, name: str) -> None:
        """Somebody releases and destroys our snapshots on the source, with `amount` above 0.8 bookmarks as well."""
        guest = self._cluster.guests[fault.vmid]
        if guest.off:
            return  # its disks may be on their way aside
        self._excuse_base(fault.vmid)
        for dataset in _in_place(guest):
            storage = guest.machine.storage
            for snap in [s for s in storage.there(dataset).snaps.values() if not s.foreign]:
                storage.destroy_by_admin(dataset, snap.name)
            if fault.amount > 0.8:
                storage.there(dataset).marks.clear()
                storage.touch(storage.there(dataset))

    def _admin_destroy_goal(self, fault: Fault, name: str) -> None:
        """Somebody destroys the newest of our snapshots on the source."""
        guest = self._cluster.guests[fault.vmid]
        self._excuse_base(fault.vmid)

        def destroy() -> None:
            for dataset in _in_place(guest) if not guest.off else ():
                storage = guest.machine.storage
                ours = [s for s in storage.there(dataset).snaps.values() if not s.foreign]
                if ours:
                    storage.destroy_by_admin(dataset, ours[-1].name)

        self._world.loop.after(min(1.0, fault.seconds), destroy)

    def _excuse_base(self, vmid: int) -> None:
        self._checks.excuse(vmid, "a base survives", "no full resend", "no byte twice")

    # --- desired state

    def _definition(self, fault: Fault, name: str) -> None:
        self._cluster.definitions[fault.vmid] += 1
        self._cluster.put_guest(fault.vmid)

    def _disk_added(self, fault: Fault, name: str) -> None:
        guest, spec = self._cluster.guests[fault.vmid], self._cluster.specs[fault.vmid]
        if guest.off:
            return  # its disks may be on their way aside
        index = len(guest.disks) + len(guest.retired)
        if index < 5:
            guest.add_disk(self._cluster.slot(spec, index), self._cluster.dataset(spec, index))
            self._cluster.put_guest(fault.vmid)

    def _disk_removed(self, fault: Fault, name: str) -> None:
        """A disk is pulled out; with `amount` above 0.5 it comes back."""
        guest = self._cluster.guests[fault.vmid]
        if guest.off:
            return  # its disks may be on their way aside
        if len(guest.disks) > 1:
            slot, dataset = guest.disks.popitem()
            guest.retired[slot] = dataset
            self._cluster.put_guest(fault.vmid)
            if fault.amount > 0.5:
                self._later(fault, self._disk_returns, fault.vmid, slot)

    def _disk_returns(self, vmid: int, slot: str) -> None:
        guest = self._cluster.guests[vmid]
        if guest.off:
            self._world.loop.after(5.0, self._disk_returns, vmid, slot)
            return
        guest.add_disk(slot, guest.retired.pop(slot))
        self._checks.returned(vmid, slot)
        self._cluster.put_guest(vmid)

    def _disk_resized(self, fault: Fault, name: str) -> None:
        guest = self._cluster.guests[fault.vmid]
        if guest.off:
            return  # its disks may be on their way aside
        guest.machine.storage.resize(next(iter(guest.disks.values())), 1 << 20)

    def _policy_changed(self, fault: Fault, name: str) -> None:
        self._cluster.rpo = self._cluster.schedule.rpo + round(fault.amount * 10)
        bandwidth = 2_000_000 if fault.amount > 0.7 else None
        self._cluster.put_policy(rpo=self._cluster.rpo, bandwidth=bandwidth)

    def _policy_deleted(self, fault: Fault, name: str) -> None:
        for vmid in self._cluster.guests:
            self._checks.excuse(vmid, "targets")
            if self._cluster.specs[vmid].rbd:  # there are no bookmarks, so nothing is kept for whom no policy names
                self._excuse_base(vmid)
        self._cluster.service.etcd.delete(KEYS.desired("policies", "standard"))
        self._later(fault, self._cluster.put_policy)

    def _rollback(self, fault: Fault, name: str) -> None:
        """Somebody has the guest brought back to one of its points; with a small `amount` while it runs."""
        Person(self._cluster, self._checks, fault.vmid, fault.amount).ask()

    def _bad_record(self, fault: Fault, name: str) -> None:
        kinds = [("guests", fault.vmid), ("policies", "standard"), ("storage", next(iter(POOLS))), ("nodes", "n2")]
        folder, key = kinds[int(fault.amount * len(kinds)) % len(kinds)]
        before = self._cluster.service.etcd.get(KEYS.desired(folder, key))
        if before is not None and before.value not in _BAD:  # else it is spoilt once more, by somebody else
            self._good[folder, key] = before.value
        bad = _BAD[int(fault.amount * 97) % len(_BAD)]
        self._cluster.put(folder, key, bad)

        def correct() -> None:
            now = self._cluster.service.etcd.get(KEYS.desired(folder, key))
            good = self._good.get((folder, key))
            if good is not None and now is not None and now.value == bad:
                self._cluster.put(folder, key, good)

        self._later(fault, correct)

    def _maintenance(self, fault: Fault, name: str) -> None:
        self._cluster.put_node("n2", maintenance=True)
        self._later(fault, self._cluster.put_node, "n2")

    def _owner_change(self, fault: Fault, name: str) -> None:
        """As a takeover would: another node owns the guest from now on; the old owner must be refused. In the end a
        person promotes the newest point there.

        With `amount` above 0.4 it is one for which there is a reason: the old owner is cut off from etcd, for so long
        that the others certainly know.
        """
        key = KEYS.owner(fault.vmid)
        item = self._cluster.service.etcd.get(key)
        if item is None:
            return
        owner = Owner.model_validate_json(item.value)
        other = next(n for n in reversed(self._cluster.nodes) if n != owner.node)
        if fault.amount > 0.4:
            fault = replace(fault, seconds=CUT_OFF)
            self.quiet_from = max(self.quiet_from, self._world.now + fault.seconds)
            self._etcd_cut(fault, owner.node)
        since = self._world.wall() + timedelta(0)
        self._checks.excuse(fault.vmid, "converges", "targets")
        self._excuse_base(fault.vmid)
        self._checks.owner_changed[fault.vmid] = self._world.now
        new = Owner(node=other, epoch=owner.epoch + 1, since=since, by="the simulator")
        self._cluster.service.etcd.put(key, new.to_json())
        self._later(fault, self._promote, fault.vmid, self._world.machines[other].storage)

    def _promote(self, vmid: int, storage: Storage) -> None:
        """Once nothing is received there any more. What lies on RBD is there as it was, and no replica."""
        if on_rbd := self._cluster.specs[vmid].rbd:
            self._checks.excuse(vmid, "no mixture")
            if on_rbd == self._cluster.specs[vmid].disks:
                return
        points = complete(storage, vmid)
        members = points[-1].members if points else ()
        if any(storage.there(m.dataset).receiving for m in members):
            self._world.loop.after(5.0, self._promote, vmid, storage)
            return
        promoted = {member.dataset for member in members}
        others = {*self._cluster.guests[vmid].disks.values()} - promoted
        if any(name in storage.datasets and not storage.datasets[name].mark for name in others):
            self._checks.excuse(vmid, "no mixture")  # a disk that the point lacks is there as it was
        for member in members:
            if is_rbd(member.dataset):
                continue
            storage.promote(member.dataset, member.guid)
            storage.write(member.dataset, None, 4096)


_BAD = (b"{", b'{"unknown": 1}', b'{"disks": {"../": 1}}')


def _in_place(guest: SimGuest) -> list[str]:
    """Its disks but those that are aside, as after a rollback on RBD that is tried again."""
    return [dataset for dataset in guest.disks.values() if guest.machine.storage.dataset(dataset) is not None]


_KINDS: dict[str, Callable[[Faults, Fault, str], None]] = {
    "crash": Faults._crash,
    "power_cut": Faults._power_cut,
    "stall": Faults._stall,
    "clock_jump": Faults._clock_jump,
    "partition": Faults._partition,
    "one_way": Faults._one_way,
    "cut": Faults._cut,
    "etcd_cut": Faults._etcd_cut,
    "etcd_mute": Faults._etcd_mute,
    "etcd_down": Faults._etcd_down,
    "lost_reply": Faults._lost_reply,
    "compaction": Faults._compaction,
    "watch_lag": Faults._watch_lag,
    "new_leader": Faults._new_leader,
    "full": Faults._full,
    "pool_suspended": Faults._pool_suspended,
    "command_fails": Faults._command_fails,
    "no_monitor": Faults._no_monitor,
    "admin_snapshot": Faults._admin_snapshot,
    "admin_destroy": Faults._admin_destroy,
    "admin_destroy_goal": Faults._admin_destroy_goal,
    "impostor": Faults._impostor,
    "definition": Faults._definition,
    "disk_added": Faults._disk_added,
    "disk_removed": Faults._disk_removed,
    "disk_resized": Faults._disk_resized,
    "policy_changed": Faults._policy_changed,
    "policy_deleted": Faults._policy_deleted,
    "rollback": Faults._rollback,
    "bad_record": Faults._bad_record,
    "maintenance": Faults._maintenance,
    "owner_change": Faults._owner_change,
}

KINDS = tuple(_KINDS)

_KINDS |= {"ceph_full": Faults._ceph_full, "ceph_down": Faults._ceph_down, "ceph_unreached": Faults._ceph_unreached}

RBD_KINDS = (
    *("ceph_full", "ceph_down", "ceph_unreached", "crash", "power_cut", "stall", "command_fails", "cut", "partition"),
    *("etcd_cut", "no_monitor", "admin_snapshot", "admin_destroy", "admin_destroy_goal", "impostor", "disk_added"),
    *("disk_removed", "disk_resized", "policy_changed", "policy_deleted", "rollback", "owner_change"),
)
"""What strikes where a guest has disks on RBD."""
