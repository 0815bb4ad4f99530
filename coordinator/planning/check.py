"""What a change of desired state would break, found before it is written. Pure.

Each record has been read on its own; here it is held against all others. A problem counts against a change only if the
change brings it: what was broken before does not keep anybody from writing something else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from holdfast.coordinator.model.capabilities import Capability, types_that
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Guest, Placement
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.policy import ProtectionPolicy, Target
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.assignment import assign
from holdfast.coordinator.planning.desired import Desired

K = TypeVar("K", int, str)
R = TypeVar("R", bound=Record)

TOLERATED = frozenset({"Unprotected", "NoDisks"})
"""Conditions that a change may bring: that a guest is not protected yet is no mistake in a record."""

_ORDER = ("nodes", "storage", "guests", "placements", "policies")
"""Folders in the order in which their records rest on each other."""


@dataclass(frozen=True, slots=True)
class Change:
    """One record that is to be written."""

    folder: str
    name: str
    record: Record


def lay_over(desired: Desired, changes: Iterable[Change]) -> Desired:
    """Desired state as it would be after the changes."""
    storages, guests, placements = dict(desired.storages), dict(desired.guests), dict(desired.placements)
    nodes, policies, age = dict(desired.nodes), dict(desired.policies), dict(desired.age)
    snapshot_policies = dict(desired.snapshot_policies)
    youngest = max(age.values(), default=0) + 1
    for change in changes:
        match change.record:
            case Storage() as storage:
                storages[change.name] = storage
            case Guest() as guest:
                guests[int(change.name)] = guest
            case Placement() as placement:
                placements[int(change.name)] = placement
            case Node() as node:
                nodes[change.name] = node
            case ProtectionPolicy() as policy:
                policies[change.name] = policy
                age.setdefault(change.name, youngest)
            case SnapshotPolicy() as policy:
                snapshot_policies[change.name] = policy
    return replace(
        desired,
        storages=storages,
        guests=guests,
        placements=placements,
        nodes=nodes,
        policies=policies,
        snapshot_policies=snapshot_policies,
        age=age,
    )


def refusals(
    before: Desired, changes: Sequence[Change], owners: Mapping[int, Owner]
) -> dict[tuple[str, str], tuple[Condition, ...]]:
    """Those changes, by folder and name, that would break something, with what. The others can be written together."""
    refused: dict[tuple[str, str], tuple[Condition, ...]] = {}

    def accept(state: Desired, batch: Sequence[Change]) -> Desired:
        if not batch:
            return state
        after = lay_over(state, batch)
        brought = _brought(state, after, owners)
        if not brought:
            return after
        if len(batch) == 1:
            refused[batch[0].folder, batch[0].name] = brought
            return state
        half = len(batch) // 2
        return accept(accept(state, batch[:half]), batch[half:])

    state = before
    for folder in _ORDER:
        state = accept(state, [change for change in changes if change.folder == folder])
    return refused


def unprotected_by_deletion(
    before: Desired, gone: Iterable[tuple[str, str]], owners: Mapping[int, Owner]
) -> tuple[int, ...]:
    """Guests that still are wanted, were replicated, and are not any more once these records (folder, name) go."""
    names = set(gone)

    def left(folder: str, records: Mapping[K, R]) -> dict[K, R]:
        return {name: record for name, record in records.items() if (folder, str(name)) not in names}

    after = replace(
        before,
        storages=left("storage", before.storages),
        guests=left("guests", before.guests),
        placements=left("placements", before.placements),
        nodes=left("nodes", before.nodes),
        policies=left("policies", before.policies),
        snapshot_policies=left("policies", before.snapshot_policies),
    )
    was = {vmid for vmid, protection in assign(before, owners).items() if protection.protected}
    return tuple(v for v, protection in assign(after, owners).items() if v in was and not protection.protected)


def _brought(before: Desired, after: Desired, owners: Mapping[int, Owner]) -> tuple[Condition, ...]:
    """Problems that are in `after` and were not in `before`, each message once."""
    old = Counter(where for where, _ in _problems(before, owners))
    brought: dict[str, Condition] = {}
    for where, condition in _problems(after, owners):
        if old[where] > 0:
            old[where] -= 1
        else:
            brought.setdefault(condition.message, condition)
    return tuple(brought.values())


_Where = tuple[str, str, str | None]
"""Whose problem, reason, target: not the message, which may list what else there is."""


def _problems(desired: Desired, owners: Mapping[int, Owner]) -> list[tuple[_Where, Condition]]:
    found: list[tuple[str, Condition]] = []
    for name, policy in desired.policies.items():
        found += [(f"policies/{name}", c) for c in check_policy(name, policy, desired)]
    for name, snapshots in desired.snapshot_policies.items():
        found += [(f"policies/{name}", c) for c in check_selector(name, snapshots.selector, desired)]
    for vmid, guest in desired.guests.items():
        found += [(f"guests/{vmid}/node", c) for c in _known_node(f"Guest {vmid} is", guest.node, desired)]
    for vmid, placement in desired.placements.items():
        found += [(f"placements/{vmid}", c) for c in _known_node(f"Guest {vmid} is placed", placement.node, desired)]
    for vmid, protection in assign(desired, owners).items():
        found += [(f"guests/{vmid}", c) for c in protection.conditions if c.reason not in TOLERATED]
    return [((whose, c.reason, c.target), c) for whose, c in found]


def _known_node(what: str, node: str | None, desired: Desired) -> list[Condition]:
    if node is None or node in desired.nodes:
        return []
    known = ", ".join(sorted(desired.nodes)) or "none"
    return [
        Condition(
            reason="UnknownNode",
            message=f"{what} on node {node}, which does not exist (known: {known}). Apply a Node of that name first,"
            " or correct the name.",
        )
    ]


def check_policy(name: str, policy: ProtectionPolicy, desired: Desired) -> tuple[Condition, ...]:
    """What a policy names that does not exist or does not fit, whether or not it selects a guest now."""
    found = check_selector(name, policy.selector, desired)
    for target in policy.targets:
        found += _check_target(name, target, desired)
    return tuple(found)


def check_selector(name: str, selector: Selector, desired: Desired) -> list[Condition]:
    """Storages that a policy selects by and that do not exist."""
    return [
        Condition(
            reason="UnknownStorage",
            message=f"Policy {name} selects guests on storage {storeid}, which is not defined. Apply a Storage of that"
            " name, or correct the selector.",
        )
        for storeid in selector.storage or ()
        if storeid not in desired.storages
    ]


def _check_target(policy: str, target: Target, desired: Desired) -> list[Condition]:
    def refuse(reason: str, message: str) -> Condition:
        return Condition(reason=reason, target=target.node, message=message)

    if target.node not in desired.nodes:
        known = ", ".join(sorted(desired.nodes)) or "none"
        return [
            refuse(
                "UnknownNode",
                f"Policy {policy} replicates to node {target.node}, which does not exist (known: {known}). Apply a Node"
                " of that name first, or correct the target.",
            )
        ]
    found = []
    for here, there in target.storages.items():
        source, mapped = desired.storages.get(here), desired.storages.get(there)
        if source is None:
            found.append(
                refuse(
                    "UnknownStorage", f"Policy {policy} maps storage {here}, which is not defined. Correct its name."
                )
            )
        elif mapped is None or not mapped.reaches(target.node):
            found.append(
                refuse(
                    "TargetLacksStorage",
                    f"Policy {policy} maps {here} to storage {there} on {target.node}, which has no such storage."
                    " Define it there, or map to another.",
                )
            )
        elif mapped.type != source.type:
            found.append(
                refuse(
                    "TargetStorageType",
                    f"Policy {policy} maps {here} of type {source.type} to {there} of type {mapped.type}. Map it to a"
                    f" storage of type {source.type}.",
                )
            )
        elif not mapped.can(Capability.REPLICAS):
            what = "shared" if mapped.shared else f"of type {mapped.type}"
            found.append(
                refuse(
                    "UnreplicableStorage",
                    f"Policy {policy} maps {here} to storage {there}, which is {what} and cannot be replicated to"
                    f" (can: {types_that(Capability.REPLICAS)}). Map it to another.",
                )
            )
    return found
