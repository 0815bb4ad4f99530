"""`holdfast bwlimit`: the bandwidth limit of an operation."""

from pathlib import Path

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.proxmox import bandwidth
from holdfast.coordinator.proxmox.bandwidth import OPERATIONS, BandwidthError
from holdfast.coordinator.proxmox.datacenter import DatacenterConfig
from holdfast.coordinator.proxmox.storage_config import StorageConfig


@click.command("bwlimit")
@click.argument("operation", metavar="OP", type=click.Choice(OPERATIONS))
@click.argument("storage_ids", metavar="[STOREID]...", nargs=-1)
@inputs.file_option("--storage-file", "storage.cfg")
@inputs.file_option("--datacenter-file", "datacenter.cfg")
@click.option("--override", type=click.FloatRange(min=0), help="Ask for this limit, KiB/s: it may only lower.")
@click.option("--permitted", is_flag=True, help="The override's giver may change storages and datacenter: it holds.")
@inputs.output_option
def bwlimit(
    operation: str,
    storage_ids: tuple[str, ...],
    storage_file: Path | None,
    datacenter_file: Path | None,
    override: float | None,
    permitted: bool,
    output: str,
) -> None:
    """Print how fast OP (clone, migration, move, restore, default) may go between storages, in KiB/s; 0 is no limit."""
    storages = inputs.read_storages(storage_file) if storage_file else StorageConfig.parse(b"")
    datacenter = DatacenterConfig.parse(inputs.read(datacenter_file) if datacenter_file else b"")
    try:
        limit = bandwidth.limit(
            operation, storage_ids, storages.storages, datacenter.bandwidth, override, permitted=permitted
        )
    except BandwidthError as error:
        raise Failed(str(error)) from None
    limit = int(limit) if limit == int(limit) else limit
    if output == "json":
        inputs.echo_json({"kib_per_s": limit})
    else:
        click.echo(limit)
