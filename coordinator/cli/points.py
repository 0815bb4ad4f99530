"""`points`: the recovery points of a guest, on every node that has some."""

import click
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, console, duration, moment, show, size, table
from holdfast.coordinator.cli.snapshot import consistency, points_of, taken_for
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.store.port import Store

HEADERS = ("NODE", "POINT", "INSTANT", "AGE", "DISKS", "SIZE", "TAKEN FOR", "CONSISTENCY", "COMPLETE")


@click.command()
@click.argument("vmid", type=int)
@pass_connection
def points(connection: Connection, vmid: int) -> None:
    """Show from which points a guest could be started, on which nodes: complete ones, also where it runs."""

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    state = connection.run(work)
    rows = []
    now = state.status().at
    for node, point in points_of(state, vmid):
        age = duration(max(0.0, (now - point.instant).total_seconds()))
        what = (str(point.disks), size(point.size), taken_for(point), consistency(point), "yes")
        rows.append((node, f"{point.epoch}-{point.sequence}", moment(point.instant), age, *what))
    if not rows:
        known = vmid in state.desired.guests or vmid in state.owners
        raise Failed(
            f"no node reports a recovery point of guest {vmid}"
            + ("" if known else ", which is not known either")
            + f"; holdfast explain {vmid} says why"
        )
    show(table(HEADERS, rows, console().is_terminal))
