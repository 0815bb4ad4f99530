"""`holdfast storage`: what Proxmox makes of a storage.cfg."""

import sys
from pathlib import Path
from typing import Any

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import complain, show, table
from holdfast.coordinator.model.capabilities import CAN, Capability
from holdfast.coordinator.proxmox.storage_config import Storage, StorageConfig


@click.group("storage")
def storage() -> None:
    """Storages, as Proxmox's storage.cfg has them."""


@storage.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--strict", is_flag=True, help="Exit with 1 if Proxmox would pass over anything in it.")
@inputs.output_option
def check(file: Path, strict: bool, output: str) -> None:
    """Show the storages of FILE as Proxmox would use them, and what it would pass over."""
    config = inputs.read_storages(file)
    if output == "json":
        inputs.echo_json(as_json(config))
    else:
        _print(file, config)
    if strict and (config.warnings or config.errors):
        sys.exit(1)


@storage.command("capabilities")
@inputs.output_option
def capabilities(output: str) -> None:
    """Show what Holdfast can do with the volumes of each type of storage."""
    if output == "json":
        inputs.echo_json({type: sorted(can) for type, can in CAN.items()})
        return
    types = sorted(CAN)
    rows = [(each, *("yes" if each in CAN[type] else "no" for type in types), each.words) for each in Capability]
    show(table(("CAPABILITY", *types, "MEANS TO"), rows, sys.stdout.isatty()))


def as_json(config: StorageConfig) -> dict[str, Any]:
    """Return the stable form of a parsed storage.cfg."""
    return {
        "sections": [_section(storage) for storage in config.storages.values()],
        "warnings": [{"line": finding.line, "message": finding.message} for finding in config.warnings],
        "errors": [{"line": lost.line, "id": lost.id, "message": lost.message} for lost in config.errors],
        "digest": config.digest,
    }


def _section(storage: Storage) -> dict[str, Any]:
    return {
        "id": storage.id,
        "type": storage.type,
        "line": storage.line,
        "properties": dict(storage.properties),
        "content": sorted(storage.content),
        "shared": storage.shared,
        "nodes": None if storage.nodes is None else sorted(storage.nodes),
        "disabled": storage.disabled,
    }


def _print(file: Path, config: StorageConfig) -> None:
    rows = [
        (
            storage.id,
            storage.type,
            ",".join(sorted(storage.content)),
            "yes" if storage.shared else "no",
            "all" if storage.nodes is None else ",".join(sorted(storage.nodes)),
            "disabled" if storage.disabled else "",
        )
        for storage in config.storages.values()
    ]
    show(table(("ID", "TYPE", "CONTENT", "SHARED", "NODES", ""), rows, sys.stdout.isatty()))
    for finding in config.warnings:
        complain(f"{file}:{finding.line}: {finding.message}")
