"""`snapshot list`, `create`, `delete`: points that policies and people had taken, and snapshots that others made."""

import getpass
import secrets
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
from holdfast.coordinator.cli.agents import Answers, ask
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, clean, complain, console, line, moment, show, size, table
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.answers import Snapshots
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.report import PointReport
from holdfast.coordinator.model.request import PointName, Request
from holdfast.coordinator.planning.assignment import assign
from holdfast.coordinator.planning.status import Status
from holdfast.coordinator.store.port import Delete, Put, Store, absent
from pydantic import ValidationError

HEADERS = ("NODE", "POINT", "INSTANT", "TAKEN FOR", "KEPT BY", "CONSISTENCY", "NOTE")
_FOREIGN_HEADERS = ("NODE", "SNAPSHOT", "MADE BY", "USED")


@click.command("list")
@click.argument("vmid", type=int)
@pass_connection
def list_snapshots(connection: Connection, vmid: int) -> None:
    """Show a guest's points on every node with why they stay, and the snapshots that others made of its disks."""

    async def work(store: Store) -> tuple[State, Answers[Snapshots]]:
        state = await load(store, connection.keyspace)
        owner = state.owners.get(vmid)
        nodes = {name: node for name, node in state.desired.nodes.items() if owner and name == owner.node}
        return state, await ask(nodes, f"/v1/snapshots?vmid={vmid}", Snapshots, connection.agents)

    state, answers = connection.run(work)
    _known(state, vmid)
    rows = [_row(node, point) for node, point in points_of(state, vmid)]
    terminal = console().is_terminal
    shown = [table(HEADERS, rows, terminal)] if rows else [line(f"Guest {vmid} has no recovery points.")]
    foreign = [
        (node, f"{each.dataset}@{each.snapshot}", each.origin, size(each.used))
        for node, given in sorted(answers.given.items())
        for guest in given.guests
        for each in guest.foreign
    ]
    if foreign:
        shown += [line(""), line("Made by others; Holdfast leaves them alone:")]
        shown += [table(_FOREIGN_HEADERS, foreign, terminal)]
    show(*shown)
    for node, why in answers.silent.items():
        complain(f"agent on {node}: {why}; snapshots that others made are not shown")


def points_of(state: State, vmid: int) -> Iterator[tuple[str, PointReport]]:
    """(node, point) of all that are reported: where the guest runs first, each node's oldest first."""
    owner = state.owners.get(vmid)
    report = state.reports.guests.get((owner.node, vmid)) if owner else None
    if owner and report and report.epoch == owner.epoch:
        for point in report.points:
            yield owner.node, point
    for (node, guest), replica in sorted(state.reports.replicas.items()):
        if guest == vmid:
            for point in sorted(replica.points, key=lambda p: (p.epoch, p.sequence)):
                yield node, point


def taken_for(point: PointReport) -> str:
    """The policies of a point, or that somebody asked for it, or replication."""
    why = [*point.policies, *(["a request"] if point.request else [])]
    return ", ".join(why or ["replication"]) + (" (late)" if point.late else "")


def consistency(point: PointReport) -> str:
    """What was got, and what was wanted where that is more."""
    return f"{point.consistency}" + ("" if point.as_asked else f" ({point.asked} was wanted)")


def _row(node: str, point: PointReport) -> Sequence[str]:
    why = ", ".join((*point.kept, *(f"replication: {need}" for need in point.needed)))
    name = f"{point.epoch}-{point.sequence}"
    return (node, name, moment(point.instant), taken_for(point), why, consistency(point), point.note)


@click.command()
@click.argument("vmid", type=int)
@click.option("--note", default="", help="What people are to read beside it, in a line.")
@pass_connection
def create(connection: Connection, vmid: int, note: str) -> None:
    """Have a recovery point taken now, which stays until its deletion is asked for."""

    async def work(store: Store) -> str:
        state = await load(store, connection.keyspace)
        _can_be_taken(state, vmid)
        id = f"snapshot-{vmid}-{secrets.token_hex(6)}"
        try:
            request = Request(action="snapshot", vmid=vmid, asked=datetime.now(UTC), by=_who(), note=note)
        except ValidationError as error:
            raise click.UsageError(f"--note: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        await _write(store, connection, id, request)
        return id

    id = connection.run(work)
    click.echo(f"Asked for a snapshot of guest {vmid} ({id}); holdfast snapshot list {vmid} shows it when it is taken.")


@click.command("delete")
@click.argument("vmid", type=int)
@click.argument("names", metavar="POINT...", nargs=-1)
@click.option("--policy", help="All points that were taken for this policy and for nothing else.")
@pass_connection
def delete_snapshot(connection: Connection, vmid: int, names: tuple[str, ...], policy: str | None) -> None:
    """Have points destroyed, on every node. Refused while replication needs one."""
    if bool(names) == bool(policy):
        raise click.UsageError("give points (EPOCH-SEQUENCE), or --policy NAME")
    wanted = {_point_id(name) for name in names}

    async def work(store: Store) -> bool:
        state = await load(store, connection.keyspace)
        _known(state, vmid)
        there: dict[PointId, list[PointReport]] = {}
        for _, point in points_of(state, vmid):
            there.setdefault(PointId(point.epoch, point.sequence), []).append(point)
        chosen = wanted or {id for id, points in there.items() if points[0].policies == (policy,)}
        if not chosen:
            raise Failed(f"no node reports a point of guest {vmid} that was taken for policy {policy} alone")
        refused = False
        for id in sorted(chosen):
            why = await _ask_deletion(store, connection, vmid, id, there.get(id, []))
            click.echo(clean(f"point {id} {f'refused: {why}' if why else 'is to be deleted'}"))
            refused = refused or why is not None
        return refused

    if connection.run(work):
        raise SystemExit(1)


async def _ask_deletion(
    store: Store, connection: Connection, vmid: int, id: PointId, points: Sequence[PointReport]
) -> str | None:
    """Write the request; why not, where replication needs the point, or there is none. Its own request goes with it."""
    if not points:
        return f"no node reports such a point; holdfast snapshot list {vmid} shows those that there are"
    if needed := [need for point in points for need in point.needed]:
        return f"replication needs it ({', '.join(needed)}); it can be deleted when a later one has taken its place"
    name = PointName(epoch=id.epoch, sequence=id.sequence, instant=points[0].instant)
    request = Request(action="delete", vmid=vmid, asked=datetime.now(UTC), by=_who(), point=name)
    answered = [connection.keyspace.desired("requests", p.request) for p in points[:1] if p.request]
    await _write(store, connection, f"delete-{vmid}-{secrets.token_hex(6)}", request, answered)
    return None


async def _write(store: Store, connection: Connection, id: str, request: Request, answered: Sequence[str] = ()) -> None:
    key = connection.keyspace.desired("requests", id)
    await store.transact([absent(key)], [Put(key, request.to_json()), *(Delete(each) for each in answered)])


def _point_id(name: str) -> PointId:
    try:
        return PointId.parse(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _known(state: State, vmid: int) -> None:
    if vmid not in state.desired.guests and vmid not in state.owners:
        raise Failed(f"guest {vmid} is not known; holdfast get guest lists those that are")


def _can_be_taken(state: State, vmid: int) -> None:
    _known(state, vmid)
    protection = assign(state.desired, state.owners).get(vmid)
    view: Status = state.status()
    row = next(guest for guest in view.guests if guest.vmid == vmid)
    if row.owner is None or protection is None or not protection.disks:
        said = " ".join(f"{c.reason}: {c.message}" for c in row.conditions if c.reason != "Unprotected")
        raise Failed(f"no point can be taken of guest {vmid}. {said or 'Its disks are on storages without snapshots.'}")
    if row.state == "observe":
        raise Failed(f"guest {vmid} is only observed (its placement's mode): nothing is done to it")
