"""`snapshot clone`, `mount`, `unmount`, `unclone` and `copies`: what points hold, without touching the guest."""

import click
from holdfast.coordinator.cli.asking import TIMEOUT, PointParameter, ask_for, owner_of
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import clean, console, moment, show, table
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.proxmox.duration import parse_span
from holdfast.coordinator.store.port import Store

_NODE = click.option("--node", help="Which node's point.  [default: the guest's owner]")
HEADERS = ("NODE", "GUEST", "COPY", "POINT", "UNTIL", "DISK", "WHERE")


@click.command()
@click.argument("vmid", type=int)
@click.argument("point", type=PointParameter())
@click.option("--to", "name", required=True, help="What the copy is called: letters, digits and dashes.")
@click.option("--flatten", is_flag=True, help="Copy all of it, so that it does not need POINT any more. On Ceph only.")
@_NODE
@TIMEOUT
@pass_connection
def clone(
    connection: Connection, vmid: int, point: PointId, name: str, flatten: bool, node: str | None, patience: float
) -> None:
    """Make a copy of POINT, closed to the host; it stays until unclone, and keeps POINT unless it is flattened."""

    async def work(store: Store) -> str:
        at = node or owner_of(await load(store, connection.keyspace), vmid)
        more = {"at": str(point), "name": name, "flatten": flatten}
        return await ask_for(store, connection, patience, "clone", vmid, at, **more)

    click.echo(clean(connection.run(work)))


@click.command()
@click.argument("vmid", type=int)
@click.argument("point", type=PointParameter())
@click.option("--for", "span", default="1h", show_default=True, help="How long, at most 7d.")
@_NODE
@TIMEOUT
@pass_connection
def mount(connection: Connection, vmid: int, point: PointId, span: str, node: str | None, patience: float) -> None:
    """Make POINT readable for a while: a container's files in folders, a VM's disks as devices."""
    try:
        seconds = int(parse_span(span))
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def work(store: Store) -> str:
        at = node or owner_of(await load(store, connection.keyspace), vmid)
        more = {"at": str(point), "name": _mounted(point), "seconds": seconds}
        return await ask_for(store, connection, patience, "mount", vmid, at, **more)

    click.echo(clean(connection.run(work)))


@click.command()
@click.argument("vmid", type=int)
@click.argument("point", type=PointParameter())
@_NODE
@TIMEOUT
@pass_connection
def unmount(connection: Connection, vmid: int, point: PointId, node: str | None, patience: float) -> None:
    """Let go of a POINT that was mounted."""
    _destroy(connection, vmid, _mounted(point), node, patience)


@click.command()
@click.argument("vmid", type=int)
@click.argument("name")
@_NODE
@TIMEOUT
@pass_connection
def unclone(connection: Connection, vmid: int, name: str, node: str | None, patience: float) -> None:
    """Destroy the copy NAME of a point."""
    _destroy(connection, vmid, name, node, patience)


@click.command()
@click.argument("vmid", type=int, required=False)
@pass_connection
def copies(connection: Connection, vmid: int | None) -> None:
    """List the copies of points, mounted or not, on all nodes."""

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    rows = []
    for node, agent in sorted(connection.run(work).reports.agents.items()):
        for copy in agent.copies:
            if vmid in (None, copy.vmid):
                until = moment(copy.until) if copy.until else "-"
                known = (node, str(copy.vmid), copy.name, copy.point, until)
                rows += [(*known, slot, place) for slot, place in sorted(copy.disks.items())]
    show(table(HEADERS, rows, console().is_terminal))


def _destroy(connection: Connection, vmid: int, name: str, node: str | None, patience: float) -> None:
    async def work(store: Store) -> str:
        state = await load(store, connection.keyspace)
        having = [
            each
            for each, agent in sorted(state.reports.agents.items())
            if any((c.vmid, c.name) == (vmid, name) for c in agent.copies)
        ]
        at = node or (having[0] if len(having) == 1 else owner_of(state, vmid))
        return await ask_for(store, connection, patience, "unclone", vmid, at, name=name)

    click.echo(clean(connection.run(work)))


def _mounted(point: PointId) -> str:
    return f"point-{point}"
