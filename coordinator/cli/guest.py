"""`holdfast guest`: a guest's file, its disks, and which of them replicate."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from holdfast.coordinator.cli import inputs, output
from holdfast.coordinator.cli.output import Failed, complain, show, table
from holdfast.coordinator.proxmox import guest_config, replicability
from holdfast.coordinator.proxmox.drives import Drive
from holdfast.coordinator.proxmox.guest_config import GuestConfig, GuestFileError
from holdfast.coordinator.proxmox.storage_config import Storage


@click.group("guest")
def guest() -> None:
    """Guests, as Proxmox's files have them."""


@guest.command("show")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@inputs.file_option("--storage-file", "storage.cfg; it is looked for above FILE otherwise")
@inputs.output_option
def show_guest(file: Path, storage_file: Path | None, output: str) -> None:
    """Show the disks of FILE (…/qemu-server/VMID.conf or …/lxc/VMID.conf): are they replicated, and why not?"""
    data = inputs.read(file)
    try:
        kind, vmid = guest_config.identify(file.absolute(), data)
    except GuestFileError as error:
        raise Failed(str(error)) from None
    config = GuestConfig.parse(kind, vmid, data)
    storage_file = storage_file or _storage_file_of(file)
    storages = None if storage_file is None else inputs.read_storages(storage_file).storages
    if output == "json":
        inputs.echo_json(as_json(config, storages))
    else:
        _print(file, config, storages)


def _storage_file_of(file: Path) -> Path | None:
    """Find storage.cfg of the tree that FILE is in: <tree>/nodes/<node>/lxc/<vmid>.conf, or <tree>/lxc/… by links."""
    above = (parent / "storage.cfg" for parent in list(file.absolute().parents)[:4])
    return next((found for found in above if found.is_file()), None)


def as_json(config: GuestConfig, storages: Mapping[str, Storage] | None) -> dict[str, Any]:
    """Return the stable form of a guest; `storages` is None where storage.cfg is not known."""
    return {
        "vmid": config.vmid,
        "type": config.type,
        "name": config.name,
        "tags": list(config.tags),
        "lock": config.lock,
        "template": config.is_template,
        "parent": config.parent,
        "digest": config.digest,
        "disks": [_disk(config, drive, storages) for drive in config.current.drives.values()],
        "replicated_volumes": replicability.replicated_volumes(config, storages),
        "snapshots": [
            {
                "name": name,
                "parent": part.options.get("parent"),
                "time": int(time) if (time := part.options.get("snaptime", "")).isdecimal() else None,
                "vmstate": part.options.get("vmstate"),
                "disks": {slot: drive.source for slot, drive in part.drives.items() if slot != "vmstate"},
            }
            for name, part in config.snapshots.items()
        ],
        "pending": dict(config.pending.options),
        "conditions": [
            {"slot": condition.slot, "reason": condition.reason, "message": condition.message}
            for condition in replicability.conditions(config, storages)
        ],
        "storages_known": storages is not None,
        "warnings": [{"line": finding.line, "message": finding.message} for finding in config.warnings],
    }


def _disk(config: GuestConfig, drive: Drive, storages: Mapping[str, Storage] | None) -> dict[str, Any]:
    verdict = replicability.verdict(config, drive, storages)
    return {
        "slot": drive.slot,
        "kind": drive.kind,
        "volume": drive.source,
        "storage": drive.storage,
        "volname": drive.volname,
        "size": drive.size,
        "media": drive.options.get("media", "disk"),
        "backup": drive.backup,
        "replicate": drive.replicate,
        "shared": drive.shared,
        "replicated": verdict.replicated,
        "reason": verdict.reason,
    }


def _print(file: Path, config: GuestConfig, storages: Mapping[str, Storage] | None) -> None:
    rows = []
    for drive in config.current.drives.values():
        verdict = replicability.verdict(config, drive, storages)
        says = "yes" if verdict.replicated else f"no: {verdict.reason}"
        rows.append((drive.slot, drive.source, output.size(drive.size), says))
    show(table(("SLOT", "VOLUME", "SIZE", "REPLICATED"), rows, sys.stdout.isatty()))
    for condition in replicability.conditions(config, storages):
        complain(f"{condition.reason}: {condition.message}")
    if storages is None:
        complain("no storage.cfg was found: whether the storages replicate was not checked (give --storage-file)")
    for finding in config.warnings:
        complain(f"{file}:{finding.line}: {finding.message}")
