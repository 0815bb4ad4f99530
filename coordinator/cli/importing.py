"""`holdfast import`: once, from Proxmox's or libvirt's files into the keyspace."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, complain
from holdfast.coordinator.mirror import libvirt as libvirt_records
from holdfast.coordinator.mirror.records import Records, imported
from holdfast.coordinator.mirror.sync import Changes, preview, synchronise
from holdfast.coordinator.mirror.tree import TreeReader
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.port import Store
from pydantic import ValidationError

_LOOKS = 20
_PAUSE = 0.1  # seconds between two looks at a tree
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")


@click.group("import")
def import_() -> None:
    """Take over what there is: from Proxmox or from libvirt, once."""


@import_.command("pve")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@dry_run_option
@pass_connection
def pve(connection: Connection, directory: Path, dry_run: bool) -> None:
    """Import storages, guests, nodes and replication jobs from DIR, /etc/pve or a copy of it.

    Jobs become policies named pvesr-<VMID>-<number>. Nodes and policies that are there already stay as they are.
    A second import changes nothing. Passwords and keyrings stay where they are.
    """
    reader = TreeReader(directory)
    tree = reader.look()
    for _ in range(_LOOKS):
        time.sleep(_PAUSE)
        tree = reader.look()
        if tree.complete:
            break
    else:
        raise Failed(f"{directory} cannot be read as a whole: {'; '.join(tree.problems) or 'no storage.cfg or nodes/'}")
    records = imported(tree)

    async def make(_: Store) -> Records:
        return records

    _import(connection, make, dry_run)


@import_.command("libvirt")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--node", required=True, help="The node whose configuration this is.")
@click.option("--first-vmid", type=click.IntRange(100), default=100_000, show_default=True, help="For new guests.")
@dry_run_option
@pass_connection
def libvirt(connection: Connection, directory: Path, node: str, first_vmid: int, dry_run: bool) -> None:
    """Import pools and domains from DIR: /etc/libvirt or a copy of it, with storage/*.xml and qemu/*.xml."""
    pools, domains = ({p.name: p.read_bytes() for p in directory.glob(f"{kind}/*.xml")} for kind in ("storage", "qemu"))
    if not pools and not domains:
        raise Failed(f"{directory} has neither storage/*.xml nor qemu/*.xml")

    async def make(store: Store) -> Records:
        guests = await _guests(store, connection.keyspace)
        return libvirt_records.imported(pools, domains, node, guests, first_vmid)

    _import(connection, make, dry_run)


async def _guests(store: Store, keyspace: Keyspace) -> dict[int, Guest]:
    found: dict[int, Guest] = {}
    for kv in (await store.list(keyspace.desired("guests", ""))).items:
        name = kv.key.rpartition("/")[2]
        try:
            found[int(name)] = Guest.model_validate_json(kv.value)
        except (ValidationError, ValueError):
            found |= {int(name): Guest(type="qemu")} if name.isdecimal() else {}
    return found


def _import(connection: Connection, make: Callable[[Store], Awaitable[Records]], dry_run: bool) -> None:
    async def work(store: Store) -> tuple[Records, Changes]:
        records = await make(store)
        if dry_run:
            return records, await preview(store, connection.keyspace, records)
        changes = await synchronise(store, connection.keyspace, records, remove=False)
        assert changes is not None, "there is no guard that could fail"
        return records, changes

    records, changes = connection.run(work)
    for problem in records.problems:
        complain(problem)
    for verb, names in (("created", changes.created), ("changed", changes.changed)):
        for name in names:
            click.echo(f"{name} {verb}{' (dry run)' if dry_run else ''}")
    if not changes:
        click.echo("nothing to change")
    if lost := sum(len(names) for names in records.unreadable.values()):
        raise Failed(f"{lost} of them could not be imported; see above")
