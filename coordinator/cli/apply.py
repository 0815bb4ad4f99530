"""`apply` and `diff`: documents against what is there."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from holdfast.coordinator.cli import documents
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.documents import Document, Unreadable
from holdfast.coordinator.cli.kinds import kind_of
from holdfast.coordinator.cli.output import Failed, clean, complain
from holdfast.coordinator.cli.state import State, load
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.planning.check import Change, refusals
from holdfast.coordinator.planning.desired import BadRecord, parse
from holdfast.coordinator.store.port import MAX_OPERATIONS, OutcomeUnknown, Put, Store, StoreError, unchanged

_EXTENSIONS = {".yaml", ".yml", ".json"}

_files = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, allow_dash=True),
    help="YAML or JSON documents; - is standard input, a directory its *.yaml, *.yml and *.json. Repeatable.",
)


@dataclass(slots=True)
class Entry:
    """One document on its way: `record` None: it cannot be read; `outcome` is what is said of it."""

    label: str
    document: Document | None
    record: Record | None
    outcome: str = ""

    @property
    def change(self) -> Change:
        """What it would write."""
        assert self.document is not None
        assert self.record is not None
        return Change(self.document.kind.folder, self.document.name, self.record)

    def refuse(self, reason: str) -> None:
        """Say why nothing was written."""
        self.outcome = f"refused: {reason}"

    @property
    def refused(self) -> bool:
        """Whether it was."""
        return self.outcome.startswith("refused")

    @property
    def failed(self) -> bool:
        """Whether etcd failed while it was written."""
        return self.outcome.startswith("failed")


def read_files(files: Sequence[str]) -> list[Entry]:
    """Every document of the files, in order, each read and checked on its own."""
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for source, text in _texts(files):
        for found in documents.read(text, source):
            entry = _entry(found)
            if isinstance(found, Document):
                place = f"{found.kind.folder}/{found.name}"
                if place in first:
                    entry.record = None
                    entry.refuse(f"given twice, at {first[place]} and at {found.where}; keep one")
                first.setdefault(place, found.where)
            entries.append(entry)
    return entries


def _entry(found: Document | Unreadable) -> Entry:
    if isinstance(found, Unreadable):
        return Entry(found.where, None, None, f"refused: {found.reason}")
    try:
        return Entry(found.label, found, parse(found.kind.folder, found.name, found.kind.tagged(found.spec)))
    except BadRecord as error:
        return Entry(found.label, found, None, f"refused: {error} ({found.where})")


def _texts(files: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for name in files:
        if name == "-":
            found.append(("stdin", _decode("stdin", sys.stdin.buffer.read())))
            continue
        path = Path(name)
        inside = sorted(p for p in path.iterdir() if p.suffix in _EXTENSIONS) if path.is_dir() else [path]
        if not inside:
            raise Failed(f"{name} holds no *.yaml, *.yml or *.json file")
        for each in inside:
            try:
                found.append((str(each), _decode(str(each), each.read_bytes())))
            except OSError as error:
                raise Failed(f"cannot read {each}: {error.strerror}") from None
    return found


def _decode(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failed(f"{source} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


@click.command()
@_files
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--force", is_flag=True, help="Write also what does not fit the other records; status then shows it.")
@pass_connection
def apply(connection: Connection, files: tuple[str, ...], dry_run: bool, force: bool) -> None:
    """Write desired state from documents (kind, name, spec), checked against what is there.

    A document with a problem is refused with the reason, and the exit code is 1; the others are written all the same.
    """
    entries = read_files(files)

    async def work(store: Store) -> None:
        state = await load(store, connection.keyspace)
        decide(entries, state, force)
        if not dry_run:
            await write(entries, state, store)

    connection.run(work)
    for entry in entries:
        click.echo(clean(f"{entry.label} {entry.outcome}{' (dry run)' if dry_run else ''}"))
    refused = sum(entry.refused for entry in entries)
    if refused:
        complain(f"{refused} of {len(entries)} documents refused; nothing of them was written")
    if failed := sum(entry.failed for entry in entries):
        complain(f"{failed} of {len(entries)} documents may not have been written; apply them again")
    if not entries:
        raise Failed("the files hold no document")
    if refused or failed:
        raise SystemExit(1)


def decide(entries: Sequence[Entry], state: State, force: bool) -> None:
    """Say of each readable entry what becomes of it."""
    open_entries = [entry for entry in entries if entry.record is not None]
    for entry in open_entries:
        entry.outcome = _compare(entry.change, state)
        if other := _other_kind(entry, state):
            entry.refuse(other)
            entry.record = None
    open_entries = [entry for entry in open_entries if entry.record is not None]
    changes = [entry.change for entry in open_entries if entry.outcome != "unchanged"]
    refused = refusals(state.desired, changes, state.owners)
    for entry in open_entries:
        why = refused.get((entry.change.folder, entry.change.name))
        if why and force:
            entry.outcome += f", against: {_summary(why)}"
        elif why:
            entry.refuse(_summary(why))


def _other_kind(entry: Entry, state: State) -> str | None:
    """Two kinds of policies share their names: one must not take the other's place unnoticed."""
    assert entry.document is not None
    kind, name = entry.document.kind, entry.document.name
    present = state.record(kind.folder, name)
    if present is None or (there := kind_of(kind.folder, present.value)) == kind:
        return None
    return f"there is a {there.name} of that name; choose another, or delete it first"


def _compare(change: Change, state: State) -> str:
    present = state.record(change.folder, change.name)
    if present is None:
        return "created"
    try:
        return "unchanged" if parse(change.folder, change.name, present.value) == change.record else "changed"
    except BadRecord:
        return "changed"


def _summary(conditions: Sequence[Condition]) -> str:
    """One message of each reason and target, and how many more there are like it."""
    alike: dict[tuple[str, str | None], list[str]] = {}
    for condition in conditions:
        alike.setdefault((condition.reason, condition.target), []).append(condition.message)
    return " ".join(
        f"{reason}: {messages[0]}" + (f" (and {len(messages) - 1} more like it)" if len(messages) > 1 else "")
        for (reason, _), messages in alike.items()
    )


async def write(entries: Sequence[Entry], state: State, store: Store) -> None:
    """Write in as few transactions as may be; where one meets a concurrent change, write its documents singly."""
    to_write = [e for e in entries if e.record is not None and not e.refused and e.outcome != "unchanged"]
    for at in range(0, len(to_write), MAX_OPERATIONS):
        try:
            await _write_batch(to_write[at : at + MAX_OPERATIONS], state, store)
        except StoreError as error:  # what earlier batches wrote is written, and is said
            for entry in to_write[at:]:
                entry.outcome = f"failed: {error}"
            return


async def _write_batch(batch: Sequence[Entry], state: State, store: Store) -> None:
    if await _put(batch, state, store):
        return
    for entry in batch:
        if not await _put([entry], state, store):
            entry.refuse("somebody else changed it meanwhile; look at it (holdfast diff) and apply again")


async def _put(entries: Sequence[Entry], state: State, store: Store) -> bool:
    compares, puts = [], []
    for entry in entries:
        change = entry.change
        key = state.keyspace.desired(change.folder, change.name)
        present = state.items.get(key)
        compares.append(unchanged(key, present.mod_revision if present else 0))
        puts.append(Put(key, change.record.to_json()))
    try:
        return (await store.transact(compares, puts)).succeeded
    except OutcomeUnknown:
        # read again, then decide: the compares make a late arrival harmless
        written = [await store.get(put.key) for put in puts]
        if all(kv and kv.value == put.value for kv, put in zip(written, puts, strict=True)):
            return True
        raise


@click.command()
@_files
@pass_connection
def diff(connection: Connection, files: tuple[str, ...]) -> None:
    """Show how documents differ from what is there. Exit code 0: not at all; 1: they do, or cannot be read."""
    entries = read_files(files)

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    state = connection.run(work)
    differs = False
    for entry in entries:
        if entry.record is None or entry.document is None:
            complain(f"{entry.label} {entry.outcome}")
            differs = True
            continue
        lines = _difference(entry.document, entry.record, state)
        differs = differs or bool(lines)
        for line in lines:
            click.echo(clean(line))
    if differs:
        raise SystemExit(1)


def _difference(document: Document, record: Record, state: State) -> list[str]:
    present = state.record(document.kind.folder, document.name)
    before: list[str] = []
    if present is not None:
        try:
            there = parse(document.kind.folder, document.name, present.value)
            before = documents.dump([(document.kind, document.name, there.sparse())]).splitlines()
        except BadRecord:
            before = present.value.decode(errors="replace").splitlines()
    after = documents.dump([(document.kind, document.name, record.sparse())]).splitlines()
    return list(difflib.unified_diff(before, after, f"{document.label} (there)", document.where, lineterm=""))
