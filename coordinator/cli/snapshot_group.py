"""`snapshot`: commands on recovery points."""

import click
from holdfast.coordinator.cli.snapshot import create, delete_snapshot, list_snapshots
from holdfast.coordinator.cli.snapshot_copies import clone, copies, mount, unclone, unmount
from holdfast.coordinator.cli.snapshot_rollback import rollback


@click.group()
def snapshot() -> None:
    """A guest's recovery points: have one taken, go back to one, copy one, read files from one; others' snapshots."""


for _command in (list_snapshots, create, delete_snapshot, rollback, clone, mount, unmount, unclone, copies):
    snapshot.add_command(_command)
