"""Policies x guests -> who replicates what to where, and which of it cannot be, with the reason. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.coordinator.model.capabilities import Capability, types_that
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.policy import ProtectionPolicy, Target
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.planning.desired import Desired
from holdfast.coordinator.planning.ownership import home

REASONS = frozenset(
    {
        "Unprotected", "NoDisks", "UnknownStorage", "UnreplicableStorage", "StorageNotOnNode", "UnknownNode",
        "TargetIsOwner", "TargetLacksStorage", "TargetStorageType", "TargetCollision", "DuplicateTarget",
        "TargetSameStorage",
    }
)  # fmt: skip
"""Of the conditions that are found here. Any reader of the keyspace finds the same, and sooner than it is reported."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk that recovery points have, where the owner has it."""

    disk: str
    volume: str
    dataset: str


@dataclass(frozen=True, slots=True)
class DiskMap:
    """One disk: where the owner has it, and where the target is to have it."""

    disk: str
    volume: str
    dataset: str
    target_volume: str
    target_dataset: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One guest to one target under one policy."""

    vmid: int
    policy: str
    node: str
    disks: tuple[DiskMap, ...]
    rpo: float | None
    """Seconds."""
    schedule: str | None
    bandwidth: int | None
    """Bytes per second."""
    keep: Keep
    pause: bool = True
    """Whether the guest may be paused for a point over several pools."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What is to be done for one guest, and what cannot be."""

    vmid: int
    guest: Guest
    assignments: tuple[Assignment, ...]
    conditions: tuple[Condition, ...]
    disks: tuple[Disk, ...] = ()
    """Those that points have; none where no point can be taken at all."""
    snapshots: Mapping[str, SnapshotPolicy] = field(default_factory=dict)
    """Snapshot policies that select it, by name."""

    @property
    def protected(self) -> bool:
        """Whether at least one target is in force."""
        return bool(self.assignments)


def selects(selector: Selector, vmid: int, guest: Guest) -> bool:
    """Whether a policy's selector names this guest."""
    if selector.all:
        return True
    if selector.vmid is not None:
        return vmid in selector.vmid
    if selector.tag is not None:
        return not set(selector.tag).isdisjoint(guest.tags)
    if selector.pool is not None:
        return guest.pool in selector.pool
    return not set(selector.storage or ()).isdisjoint(disk.storeid for disk in guest.disks.values())


def assign(desired: Desired, owners: Mapping[int, Owner]) -> dict[int, Protection]:
    """Every guest's protection, by VMID."""
    by_age = sorted(desired.policies.items(), key=lambda item: (desired.age.get(item[0], 0), item[0]))
    return {
        vmid: _protect(vmid, guest, owners[vmid].node if vmid in owners else home(desired, vmid), by_age, desired)
        for vmid, guest in sorted(desired.guests.items())
    }


def _protect(
    vmid: int, guest: Guest, at: str | None, policies: list[tuple[str, ProtectionPolicy]], desired: Desired
) -> Protection:
    matching = [(name, policy) for name, policy in policies if selects(policy.selector, vmid, guest)]
    snapshots = {n: p for n, p in desired.snapshot_policies.items() if selects(p.selector, vmid, guest)}
    blocked = _blocked(vmid, guest, at, desired)
    unprotected = () if matching else (_unprotected(vmid, bool(snapshots)),)
    if blocked:
        return Protection(vmid, guest, (), unprotected + (blocked if matching or snapshots else ()))
    disks = tuple(
        Disk(slot, disk.volume, desired.storages[disk.storeid].dataset(disk.storeid, disk.volname))
        for slot, disk in sorted(guest.disks.items())
        if disk.replicate
    )
    assignments: dict[str, Assignment] = {}
    conditions: list[Condition] = []
    for name, policy in matching:
        for target in policy.targets:
            taken = assignments.get(target.node)
            if taken is not None and taken.policy != name:
                conditions.append(_duplicate(vmid, name, target.node, taken.policy))
                continue
            made = _to_target(vmid, guest, at, name, policy, target, desired)
            if isinstance(made, Assignment):
                assignments[target.node] = made
            else:
                conditions.append(made)
    if assignments:  # a policy for all guests names every node; that the owner is among them is no fault
        conditions = [c for c in conditions if c.reason != "TargetIsOwner"]
    in_force = tuple(assignments[n] for n in sorted(assignments))
    return Protection(vmid, guest, in_force, (*unprotected, *conditions), disks, snapshots)


def _unprotected(vmid: int, snapshotted: bool) -> Condition:
    instead = " Its snapshots are lost with its node." if snapshotted else ""
    return Condition(
        reason="Unprotected",
        message=f"No policy selects guest {vmid}: it is not replicated.{instead} Apply a ProtectionPolicy that selects"
        " it by vmid, tag, pool, storage or all.",
    )


def _duplicate(vmid: int, policy: str, node: str, in_force: str) -> Condition:
    return Condition(
        reason="DuplicateTarget",
        target=node,
        message=f"Policies {in_force} and {policy} both replicate guest {vmid} to {node}; the older, {in_force}, is in"
        f" force. Narrow the selector of one, or take {node} out of its targets.",
    )


def _blocked(vmid: int, guest: Guest, at: str | None, desired: Desired) -> tuple[Condition, ...]:
    """Why a guest cannot be replicated at all: a point without one of its disks would start a guest without it."""
    found = []
    replicated = {slot: disk for slot, disk in guest.disks.items() if disk.replicate}
    if not replicated:
        found.append(
            Condition(reason="NoDisks", message=f"Guest {vmid} has no disk that is to be replicated: nothing is done.")
        )
    for slot, disk in replicated.items():
        storage = desired.storages.get(disk.storeid)
        leave_out = f"or leave the disk out knowingly (replicate: false on {slot})"
        if storage is None:
            found.append(
                Condition(
                    reason="UnknownStorage",
                    message=f"Disk {slot} of guest {vmid} is on storage {disk.storeid}, which is not defined."
                    f" Apply a Storage of that name, {leave_out}.",
                )
            )
        elif not storage.can(Capability.POINTS):
            what = "shared" if storage.shared else f"of type {storage.type}"
            found.append(
                Condition(
                    reason="UnreplicableStorage",
                    message=f"Disk {slot} of guest {vmid} is on storage {disk.storeid}, which is {what}:"
                    f" no points are taken there (they are on: {types_that(Capability.POINTS)}). Move the disk,"
                    f" {leave_out}.",
                )
            )
        elif at is not None and not storage.reaches(at):
            found.append(
                Condition(
                    reason="StorageNotOnNode",
                    message=f"Disk {slot} of guest {vmid} is on storage {disk.storeid}, which node {at} does not"
                    f" have. Correct the storage's nodes, {leave_out}.",
                )
            )
    return tuple(found)


def _to_target(
    vmid: int, guest: Guest, at: str | None, name: str, policy: ProtectionPolicy, target: Target, desired: Desired
) -> Assignment | Condition:
    def refuse(reason: str, message: str) -> Condition:
        return Condition(reason=reason, target=target.node, message=message)

    if target.node not in desired.nodes:
        known = ", ".join(sorted(desired.nodes)) or "none"
        return refuse(
            "UnknownNode", f"Policy {name} replicates to node {target.node}, which does not exist (known: {known})."
        )
    if target.node == at:
        return refuse(
            "TargetIsOwner",
            f"Policy {name} replicates guest {vmid} to {at}, where it runs. Name another node as target.",
        )
    disks = []
    for slot, disk in sorted(guest.disks.items()):
        if not disk.replicate:
            continue
        mapped = target.storages.get(disk.storeid, disk.storeid)
        source, there = desired.storages[disk.storeid], desired.storages.get(mapped)
        if there is None or not there.reaches(target.node):
            return refuse(
                "TargetLacksStorage",
                f"Disk {slot} of guest {vmid} would go to storage {mapped} on {target.node}, which has no such storage."
                f" Define it there, or map {disk.storeid} to another in the policy's target (storages:).",
            )
        if there.type != source.type or not there.can(Capability.REPLICAS):
            return refuse(
                "TargetStorageType",
                f"Disk {slot} of guest {vmid} is on {disk.storeid} of type {source.type}, and storage {mapped} of"
                f" {target.node} is of type {there.type}. Map it to a storage of type {source.type}.",
            )
        if source.same_place(there):
            return refuse(
                "TargetSameStorage",
                f"Disk {slot} of guest {vmid} would be replicated from {disk.storeid} to {mapped}, which is the same"
                f" pool and namespace. Map {disk.storeid} to another pool, namespace or cluster in the policy's target"
                " (storages:).",
            )
        disks.append(
            DiskMap(
                slot,
                disk.volume,
                source.dataset(disk.storeid, disk.volname),
                f"{mapped}:{disk.volname}",
                there.dataset(mapped, disk.volname),
            )
        )
        if len({d.target_dataset for d in disks}) < len(disks):
            return refuse(
                "TargetCollision",
                f"Two disks of guest {vmid} would both become {disks[-1].target_volume} on {target.node}. Map their"
                " storages to different ones.",
            )
    pause = policy.consistency == "paused"
    return Assignment(
        vmid, name, target.node, tuple(disks), policy.rpo, policy.schedule, target.bandwidth, target.keep, pause
    )
