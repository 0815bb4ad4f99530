"""`explain`: everything about one guest, in words; the same words as `status`."""

from datetime import UTC, datetime

import click
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, duration, line, moment, show, span
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.capabilities import Capability
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.planning.assignment import Protection, assign, selects
from holdfast.coordinator.planning.status import GuestStatus, TargetStatus
from holdfast.coordinator.planning.status import State as Fares
from holdfast.coordinator.store.port import Store


@click.command()
@click.argument("vmid", type=int)
@pass_connection
def explain(connection: Connection, vmid: int) -> None:
    """Say in words what is done for a guest and why, what is wrong, and what helps."""

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    state = connection.run(work)
    row = next((guest for guest in state.status().guests if guest.vmid == vmid), None)
    if row is None:
        raise Failed(f"guest {vmid} is not known; holdfast get guest lists those that are")
    show(*(line(text) for text in words(row, state)))


def words(row: GuestStatus, state: State) -> list[str]:
    """The explanation, line by line."""
    guest = state.desired.guests.get(row.vmid)
    protection = assign(state.desired, state.owners).get(row.vmid)
    kind = {"qemu": "VM", "lxc": "container"}.get(row.type, "guest")
    said = [f"{kind} {row.vmid} {row.name}".rstrip() + f" is {row.state}."]
    if row.owner:
        since = moment(row.owner.since)
        said.append(f"Owner: {row.owner.node}, epoch {row.owner.epoch}, since {since} (by {row.owner.by}).")
    else:
        said.append("Owner: none.")
    said.append(f"Mode: {row.mode}.")
    if guest is None:
        said.append("Its record cannot be read; what follows is what its owner's agent last reported.")
    else:
        said += _policies(row.vmid, guest, state)
    if protection is not None and guest is not None:
        said += _disks(guest, protection)
        said += _storages(guest, state)
    said += _mirrors(row, state)
    said += [_target(target) for target in row.targets]
    said += [f"{c.reason}: {c.message}" + (f" (since {moment(c.since)})" if c.since else "") for c in row.conditions]
    if row.conditions:
        return said
    if row.state is Fares.BREACHED:
        said.append(
            "Nothing failed, but a replica is older than its policy allows: the transfers take too long."
            " Look at holdfast status --watch; give the policy more bandwidth, or a longer rpo."
        )
    else:
        said.append("Nothing is wrong.")
    return said


def _policies(vmid: int, guest: Guest, state: State) -> list[str]:
    said = [
        f"Policy {name} selects it: {_why(policy.selector, vmid, guest)}; it replicates to"
        f" {', '.join(target.node for target in policy.targets)}"
        + (f", at most {span(policy.rpo)} old." if policy.rpo is not None else f", at {policy.schedule}.")
        for name, policy in sorted(state.desired.policies.items())
        if selects(policy.selector, vmid, guest)
    ]
    if not said:
        names = ", ".join(sorted(state.desired.policies)) or "there is none"
        said = [f"No policy selects it (policies: {names})."]
    return said + [
        f"Snapshot policy {name} selects it: {_why(policy.selector, vmid, guest)};"
        f" {f'every {span(policy.every)}' if policy.every is not None else f'at {policy.schedule}'}, keep {policy.keep}"
        f" (on replicas {policy.keep_on_replicas}); {_newest(vmid, name, state)}"
        for name, policy in sorted(state.desired.snapshot_policies.items())
        if selects(policy.selector, vmid, guest)
    ]


def _newest(vmid: int, policy: str, state: State) -> str:
    """What there is of a policy's snapshots where the guest runs."""
    owner = state.owners.get(vmid)
    report = state.reports.guests.get((owner.node, vmid)) if owner else None
    points = [p for p in report.points if policy in p.policies] if report else []
    if not points:
        return "it has none yet."
    newest = points[-1]
    number = f"{newest.epoch}-{newest.sequence}"
    return f"it has {len(points)}, the newest is {number} of {moment(newest.instant)}{', late' if newest.late else ''}."


def _why(selector: Selector, vmid: int, guest: Guest) -> str:
    if selector.all:
        return "it selects all guests"
    if selector.vmid is not None:
        return f"it names VMID {vmid}"
    if selector.tag is not None:
        return f"it selects tag {', '.join(sorted(set(selector.tag) & set(guest.tags)))}"
    if selector.pool is not None:
        return f"it selects pool {guest.pool}"
    on = {disk.storeid for disk in guest.disks.values()} & set(selector.storage or ())
    return f"it selects storage {', '.join(sorted(on))}, where it has a disk"


def _disks(guest: Guest, protection: Protection) -> list[str]:
    goes: dict[str, list[str]] = {}
    for assignment in protection.assignments:
        for to in assignment.disks:
            goes.setdefault(to.disk, []).append(f"{assignment.node} as {to.target_volume} ({to.target_dataset})")
    said = []
    for slot, disk in sorted(guest.disks.items()):
        if not disk.replicate:
            said.append(f"Disk {slot}, {disk.volume}: left out (replicate: false).")
        else:
            said.append(f"Disk {slot}, {disk.volume}: goes to {', '.join(goes.get(slot, [])) or 'no target'}.")
    return said


def _storages(guest: Guest, state: State) -> list[str]:
    """What the storages of its disks cannot do, as nobody asks for what can be done."""
    said = []
    for storeid in sorted({disk.storeid for disk in guest.disks.values() if disk.replicate}):
        storage = state.desired.storages.get(storeid)
        if storage is not None and storage.can(Capability.POINTS):
            lacks = ", ".join(each.words for each in Capability if not storage.can(each))
            said.append(f"Storage {storeid} (type {storage.type}) cannot: {lacks}.")
    return said


def _mirrors(row: GuestStatus, state: State) -> list[str]:
    """What rbd-mirror does with its disks: another tool's work, which Holdfast leaves alone."""
    report = state.reports.guests.get((row.owner.node, row.vmid)) if row.owner else None
    said = []
    for mirror in report.mirrors if report else ():
        side = "its image is the primary one" if mirror.primary else "its image is a copy, not the primary one"
        age = f", {duration((datetime.now(UTC) - mirror.at).total_seconds())} behind" if mirror.at else ""
        silent = "" if mirror.up else ", its daemon does not report"
        detail = f" ({mirror.detail})" if mirror.detail else ""
        said.append(f"Disk {mirror.disk} is also kept by rbd-mirror: {side}; {mirror.state}{age}{silent}{detail}.")
    return said


def _target(target: TargetStatus) -> str:
    wanted = f"at most {span(target.rpo)}" if target.rpo is not None else f"schedule {target.schedule or 'unknown'}"
    if target.last is None:
        return f"Target {target.node} (policy {target.policy}): has no complete point yet; wanted: {wanted}."
    point = f"{target.last.epoch}-{target.last.sequence}"
    fresh = "" if target.fresh_at == target.last.instant else f", unchanged until {moment(target.fresh_at)}"
    return (
        f"Target {target.node} (policy {target.policy}): {target.state}; last point {point} of"
        f" {moment(target.last.instant)}{fresh}; lag {duration(target.lag)}, wanted: {wanted}."
    )
