"""`holdfast doctor`: what is wrong beneath the guests, and what mends it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from holdfast.coordinator.access import Access as EtcdAccess
from holdfast.coordinator.access import wanted_rights
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.doctor_facts import collect
from holdfast.coordinator.cli.etcd_access import as_admin
from holdfast.coordinator.cli.machine import Machine, folder_option
from holdfast.coordinator.cli.output import Failed, console, line, show, table
from holdfast.coordinator.doctor.findings import findings
from holdfast.coordinator.grouped import ungrouped
from holdfast.coordinator.identity.authority_files import AuthorityError, AuthorityFiles
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.identity.rights import role_for
from holdfast.coordinator.store.port import Store, StoreError


@click.command()
@inputs.output_option
@folder_option
@pass_connection
def doctor(connection: Connection, output: str, folder: Path) -> None:
    """Look at etcd, certificates, clocks, roles and connections. Exits 1 where something is wrong."""

    async def work() -> list[dict[str, str]]:
        async with connection.settings.store() as store:
            facts = await collect(store, connection.settings, connection.agents, roles)
        return [asdict(finding) for finding in findings(facts, datetime.now(UTC))]

    roles = _roles(connection, Machine(folder))
    try:
        with ungrouped():
            found = asyncio.run(work())
    except (StoreError, OSError, ValueError) as error:
        raise Failed(str(error)) from None
    if output == "json":
        inputs.echo_json(found)
    elif found:
        rows = [tuple(finding.values()) for finding in found]
        show(table(("REASON", "WHERE", "WHAT", "MENDED BY"), rows, console().is_terminal))
    else:
        show(line("Nothing is wrong."))
    if found:
        raise SystemExit(1)


def _roles(connection: Connection, machine: Machine) -> Mapping[str, str] | None:
    """Role → how its rights differ from what they should be; only the administrator may look."""
    if not machine.has(Role.ADMIN):
        return None
    try:
        known = {each.identity for each in AuthorityFiles(machine.authority).issued() if not each.revoked}
    except (AuthorityError, OSError):
        return None

    async def compare(access: EtcdAccess, _: Store) -> dict[str, str]:
        wrong = {}
        for role in {role_for(identity, connection.keyspace) for identity in known} - {None}:
            assert role is not None
            present = await access.rights(role.name)
            if present is None:
                wrong[role.name] = "does not exist"
            elif present != wanted_rights(role.rights):
                wrong[role.name] = "has other rights than it should"
        return wrong

    return as_admin(connection.settings, machine, compare)
