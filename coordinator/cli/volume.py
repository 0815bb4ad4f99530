"""`holdfast volume`: what a volume's name means, and whose a path is."""

import os
from pathlib import Path
from typing import Any

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.proxmox import volumes
from holdfast.coordinator.proxmox.storage_types import TYPES
from holdfast.coordinator.proxmox.volumes import Volume, VolumeError


@click.group("volume")
def volume() -> None:
    """Volumes: STOREID:VOLNAME, as Proxmox names them."""


@volume.command("parse")
@click.argument("volname")
@click.option("--type", "storage_type", required=True, type=click.Choice(list(TYPES)), help="Type of the storage.")
@inputs.output_option
def parse(volname: str, storage_type: str, output: str) -> None:
    """Say what VOLNAME (without its storage's ID) means on a type of storage."""
    try:
        found = as_json(volumes.parse(volname, storage_type))
    except VolumeError as error:
        raise Failed(str(error)) from None
    if output == "json":
        inputs.echo_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key}: {'-' if value is None else value}")


def as_json(found: Volume) -> dict[str, Any]:
    """Return the stable form of a parsed volume name."""
    return {
        "vtype": found.vtype,
        "name": found.name,
        "vmid": found.vmid,
        "basename": found.basename,
        "basevmid": found.basevmid,
        "is_base": found.is_base,
        "format": found.format,
    }


@volume.command("path")
@click.argument("path")
@inputs.file_option("--storage-file", "storage.cfg", required=True)
@inputs.output_option
def path(path: str, storage_file: Path, output: str) -> None:
    """Print the ID of the volume that lies at PATH, or at what PATH is a link to."""
    storages = inputs.read_storages(storage_file).storages.values()
    try:
        volume_id = volumes.volume_id_of_path(path, storages)
    except VolumeError as error:
        try:
            volume_id = volumes.volume_id_of_path(os.path.realpath(path) if path.startswith("/") else path, storages)
        except VolumeError:
            raise Failed(str(error)) from None
    if output == "json":
        inputs.echo_json({"volid": volume_id})
    else:
        click.echo(volume_id)
