"""`holdfast leftovers`: what lies on the nodes and is of no use to anybody any more, and what removes it."""

import click
from holdfast.coordinator.cli.agents import Answers, ask
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, complain, console, line, show, size, table
from holdfast.coordinator.cli.state import load
from holdfast.coordinator.model.answers import Leftover, Leftovers
from holdfast.coordinator.store.port import Store

HEADERS = ("NODE", "KIND", "NAME", "GUEST", "USED", "PROOF")
PATIENCE = 15.0
"""Seconds: an agent may look at its storage first."""


@click.command()
@click.option("--node", help="Only this node.")
@click.option("--commands", is_flag=True, help="Print the commands that remove it, to be read and run there.")
@pass_connection
def leftovers(connection: Connection, node: str | None, commands: bool) -> None:
    """Show what lies on the nodes and is of no use any more: replicas of guests that are not replicated there now, what
    was set aside, snapshots that no record lists, streams that will never be ended.

    Only half-received streams are removed by the agents, after an hour, with the proof in their log. The rest has data
    in it: it stays until somebody removes it.
    """

    async def work(store: Store) -> Answers[Leftovers]:
        state = await load(store, connection.keyspace)
        nodes = {name: each for name, each in state.desired.nodes.items() if node in (None, name)}
        if not nodes:
            raise Failed(f"there is no node {node} in desired state" if node else "there are no nodes in desired state")
        return await ask(nodes, "/v1/leftovers", Leftovers, connection.agents, PATIENCE)

    answers = connection.run(work)
    found = [(name, each) for name, given in sorted(answers.given.items()) for each in given.found]
    if commands:
        removable = [(name, each) for name, each in found if each.remove]
        show(*(line(text) for name, each in removable for text in (f"# on {name}: {each.proof}", each.remove)))
    elif found:
        show(table(HEADERS, [_row(name, each) for name, each in found], console().is_terminal))
    else:
        show(line("Nothing is left over."))
    for name, why in answers.silent.items():
        complain(f"agent on {name}: {why}; what lies there is not shown")
    if answers.silent:
        raise SystemExit(1)


def _row(node: str, each: Leftover) -> tuple[str, ...]:
    goes = "" if each.remove else " (its agent removes it)"
    return node, each.kind, each.name, str(each.vmid), size(each.used), each.proof + goes
