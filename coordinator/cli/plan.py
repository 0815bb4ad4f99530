"""`plan`: what the owners' agents would do now."""

import click
from holdfast.coordinator.cli.agents import Answers, ask
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, complain, line, moment, show
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.answers import GuestPlan, Plan
from holdfast.coordinator.store.port import Store
from rich.console import RenderableType


@click.command()
@click.argument("vmid", type=int, required=False)
@pass_connection
def plan(connection: Connection, vmid: int | None) -> None:
    """Show the steps that the owners' agents would run, of one guest or of all."""

    async def work(store: Store) -> tuple[State, Answers[Plan]]:
        state = await load(store, connection.keyspace)
        asked = {owner.node for guest, owner in state.owners.items() if vmid in (None, guest)}
        nodes = {name: node for name, node in state.desired.nodes.items() if name in asked}
        path = "/v1/plan" if vmid is None else f"/v1/plan?vmid={vmid}"
        return state, await ask(nodes, path, Plan, connection.agents)

    state, answers = connection.run(work)
    if vmid is not None and vmid not in state.owners:
        known = vmid in state.desired.guests
        why = "has no owner yet" if known else "is not known"
        raise Failed(f"guest {vmid} {why}, so no agent plans for it; holdfast explain {vmid} says more")
    shown: list[RenderableType] = []
    for node, given in sorted(answers.given.items()):
        for guest in given.guests:
            shown += _guest(node, guest)
    show(*(shown or [line("Nothing is planned.")]))
    lost = {owner.node for guest, owner in state.owners.items() if vmid in (None, guest)} - state.desired.nodes.keys()
    for node, why in {
        **answers.silent,
        **dict.fromkeys(sorted(lost), "there is no such node in desired state"),
    }.items():
        complain(f"agent on {node}: {why}")
    if answers.silent or lost:
        raise SystemExit(1)


def _guest(node: str, guest: GuestPlan) -> list[RenderableType]:
    due = f", next due {moment(guest.due)}" if guest.due else ""
    steps = [line(f"  {number}. {step}") for number, step in enumerate(guest.steps, 1)]
    if not steps:
        steps = [line("  nothing to do now")]
    conditions = [line(f"  {c.reason}: {c.message}") for c in guest.conditions]
    return [line(f"guest {guest.vmid}, by {node}{due}"), *steps, *conditions]
