"""`snapshot`: commands on recovery points."""

import click
from holdfast.coordinator.cli.snapshot_copies import clone, copies, mount, unclone, unmount
from holdfast.coordinator.cli.snapshot_rollback import rollback


@click.group()
def snapshot() -> None:
    """Use a guest's recovery points: go back to one, copy one, read files from one."""


for _command in (rollback, clone, mount, unmount, unclone, copies):
    snapshot.add_command(_command)
