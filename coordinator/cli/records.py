"""`get` and `delete`: the records of desired state."""

import click
import orjson
from holdfast.coordinator.cli import documents
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.kinds import ALL, FOLDERS, Kind, KindArgument, kind_of, order
from holdfast.coordinator.cli.output import Failed, clean, complain, console, show, span, table
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.guest import Guest, Placement
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.policy import ProtectionPolicy
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.check import unprotected_by_deletion
from holdfast.coordinator.planning.desired import BadRecord, parse
from holdfast.coordinator.store.port import Delete, Store, unchanged

Found = tuple[Kind, str, Record | BadRecord]


@click.command()
@click.argument("kind", type=KindArgument(), required=False)
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", show_default=True)
@pass_connection
def get(connection: Connection, kind: Kind | None, name: str | None, output: str) -> None:
    """Show desired state; what -o yaml and -o json print can be applied again."""

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    found = _find(connection.run(work), kind, name)
    if name is not None and not found:
        assert kind is not None, "a name follows its kind"
        raise Failed(f"there is no {kind.label} {name}; holdfast get {kind.label} lists those that there are")
    bad = [(k, n, record) for k, n, record in found if isinstance(record, BadRecord)]
    good = [(k, n, record.sparse()) for k, n, record in found if not isinstance(record, BadRecord)]
    if output == "yaml":
        click.echo(documents.dump(good), nl=False)
    elif output == "json":
        envelopes = [{"kind": k.name, "name": int(n) if k.by_vmid else n, "spec": spec} for k, n, spec in good]
        click.echo(orjson.dumps(envelopes, option=orjson.OPT_INDENT_2).decode())
    else:
        rows = [(k.label, n, _words(record)) for k, n, record in found]
        show(table(("KIND", "NAME", "WHAT"), rows, console().is_terminal))
    if bad and output != "table":
        for k, n, error in bad:
            complain(f"{k.label} {n} is left out, it cannot be read: {error}")
        raise SystemExit(1)


def _find(state: State, kind: Kind | None, name: str | None) -> list[Found]:
    found: list[Found] = []
    for key, item in state.items.items():
        folder, _, called = key.removeprefix(state.keyspace.desired_prefix).partition("/")
        if not key.startswith(state.keyspace.desired_prefix) or folder not in FOLDERS:
            continue
        its = kind_of(folder, item.value)
        if (kind and its != kind) or (name is not None and called != name):
            continue
        try:
            found.append((its, called, parse(folder, called, item.value)))
        except BadRecord as error:
            found.append((its, called, error))
    return sorted(found, key=lambda each: (ALL.index(each[0]), order(each[1])))


def _words(record: Record | BadRecord) -> str:
    """A record in a line."""
    match record:
        case BadRecord():
            return f"cannot be read: {record}"
        case Node():
            return record.address + (", in maintenance" if record.maintenance else "")
        case Storage():
            where = f" on {', '.join(record.nodes)}" if record.nodes is not None else ""
            return f"{record.type} {record.properties.get('pool', '')}".rstrip() + where
        case Guest():
            disks = ", ".join(f"{slot} {disk.volume}" for slot, disk in record.disks.items())
            return f"{record.type} {record.name}".rstrip() + f" on {record.node or '?'}: {disks or 'no disks'}"
        case Placement():
            return f"{record.mode}" + (f" on {record.node}" if record.node else "")
        case ProtectionPolicy():
            often = f"at most {span(record.rpo)} old" if record.rpo is not None else f"at {record.schedule}"
            return f"{_whom(record.selector)} to {', '.join(target.node for target in record.targets)}, {often}"
        case SnapshotPolicy():
            often = f"every {span(record.every)}" if record.every is not None else f"at {record.schedule}"
            there = f", on replicas {record.replicas}" if record.replicas is not None else ""
            return f"{_whom(record.selector)} {often}, keep {record.keep}{there}"
    return ""


def _whom(selector: Selector) -> str:
    if selector.all:
        return "all guests"
    chosen = selector.model_dump(exclude_none=True)
    return " ".join(f"{k} {', '.join(map(str, v))}" for k, v in chosen.items())


@click.command()
@click.argument("kind", type=KindArgument())
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_connection
def delete(connection: Connection, kind: Kind, names: tuple[str, ...]) -> None:
    """Delete records of desired state. No data is destroyed by that: replicas stay where they are."""

    async def work(store: Store) -> bool:
        state = await load(store, connection.keyspace)
        failed = False
        gone: list[tuple[str, str]] = []
        for name in dict.fromkeys(names):
            present = state.record(kind.folder, name)
            if present is None or kind_of(kind.folder, present.value) != kind:
                click.echo(clean(f"{kind.label}/{name} refused: there is no such {kind.label}"))
                failed = True
                continue
            if not (
                await store.transact([unchanged(present.key, present.mod_revision)], [Delete(present.key)])
            ).succeeded:
                click.echo(clean(f"{kind.label}/{name} refused: somebody else changed it meanwhile; look at it again"))
                failed = True
                continue
            gone.append((kind.folder, name))
            click.echo(clean(f"{kind.label}/{name} deleted"))
        if left := unprotected_by_deletion(state.desired, gone, state.owners):
            click.echo(f"Left unprotected: guest{'s' if len(left) > 1 else ''} {', '.join(map(str, left))}")
        return failed

    if connection.run(work):
        raise SystemExit(1)
