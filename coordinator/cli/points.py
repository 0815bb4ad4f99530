"""`points`: the recovery points of a guest, on every node that has some."""

import click
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, console, duration, moment, show, size, table
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.store.port import Store

HEADERS = ("NODE", "POINT", "INSTANT", "AGE", "DISKS", "SIZE", "CONSISTENCY", "COMPLETE")


@click.command()
@click.argument("vmid", type=int)
@pass_connection
def points(connection: Connection, vmid: int) -> None:
    """Show from which points a guest could be started, on which nodes. Agents report complete points only."""

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    state = connection.run(work)
    rows = []
    now = state.status().at
    for (node, guest), report in sorted(state.reports.replicas.items()):
        if guest != vmid:
            continue
        for point in sorted(report.points, key=lambda p: (p.epoch, p.sequence)):
            age = duration(max(0.0, (now - point.instant).total_seconds()))
            name = f"{point.epoch}-{point.sequence}"
            kept = (age, str(point.disks), size(point.size), point.consistency, "yes")
            rows.append((node, name, moment(point.instant), *kept))
    if not rows:
        known = vmid in state.desired.guests or vmid in state.owners
        raise Failed(
            f"no node reports a recovery point of guest {vmid}"
            + ("" if known else ", which is not known either")
            + f"; holdfast explain {vmid} says why"
        )
    show(table(HEADERS, rows, console().is_terminal))
