"""`snapshot rollback`: says what a guest would lose, has that confirmed, and has the guest brought back to a point."""

import sys

import click
from holdfast.coordinator.cli.agents import ask
from holdfast.coordinator.cli.asking import TIMEOUT, PointParameter, ask_for, owner_of
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, clean
from holdfast.coordinator.cli.state import load
from holdfast.coordinator.model.answers import RollbackPreview
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.store.port import Store

_PATIENCE = 60.0
"""Seconds for the agent to look at its storage."""


@click.command()
@click.argument("vmid", type=int)
@click.argument("point", type=PointParameter())
@click.option("--yes", is_flag=True, help="Do not ask.")
@TIMEOUT
@pass_connection
def rollback(connection: Connection, vmid: int, point: PointId, yes: bool, patience: float) -> None:
    """Bring a guest, which must be off, back to POINT (EPOCH-SEQUENCE) where it runs.

    What it is now is snapshotted and kept: on ZFS under holdfast/aside, on RBD as a point. Its replicas follow.
    """

    async def look(store: Store) -> tuple[str, RollbackPreview]:
        state = await load(store, connection.keyspace)
        owner = owner_of(state, vmid)
        nodes = {name: node for name, node in state.desired.nodes.items() if name == owner}
        path = f"/v1/rollback?vmid={vmid}&epoch={point.epoch}&sequence={point.sequence}"
        answers = await ask(nodes, path, RollbackPreview, connection.agents, _PATIENCE)
        if owner not in answers.given:
            why = answers.silent.get(owner, "there is no such node in desired state")
            raise Failed(
                f"what guest {vmid} would lose cannot be told, so nothing is asked for. Agent on {owner}: {why}"
            )
        return owner, answers.given[owner]

    async def carry_out(store: Store) -> str:
        return await ask_for(store, connection, patience, "rollback", vmid, owner, at=str(point))

    owner, preview = connection.run(look)
    if preview.refused:
        raise Failed(preview.refused)
    click.echo(f"Guest {vmid} on {owner} would be as it was at point {point}. Kept, but gone from the guest:")
    for line in preview.loses or ("nothing: nothing was written since",):
        click.echo(f"  {clean(line)}")
    if not yes:
        _confirm(vmid)
    click.echo(clean(connection.run(carry_out)))


def _confirm(vmid: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this takes a confirmation: run it in a terminal, or give --yes")
    typed = click.prompt(f"Type the guest's number ({vmid}) to go on", default="", show_default=False)
    if typed.strip() != str(vmid):
        raise Failed("nothing was done")
