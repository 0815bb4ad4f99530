"""`holdfast join` and `holdfast renew`: a machine gets its certificates; its private keys never leave it."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography import x509
from holdfast.coordinator.cli.machine import Machine, folder_option
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.enrolment import client
from holdfast.coordinator.enrolment.client import EnrolmentFailed
from holdfast.coordinator.enrolment.messages import PORT
from holdfast.coordinator.enrolment.token import BadToken, Token
from holdfast.coordinator.identity.authority import new_key
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.identity.verify import expires_soon


@click.command()
@click.argument("name")
@click.argument("token")
@folder_option
def join(name: str, token: str, folder: Path) -> None:
    """Join this machine to a cluster as NAME, with the token that `holdfast ca token NAME` printed.

    TOKEN may be -: it is then read from standard input, and shows in no list of processes.
    """
    machine = Machine(folder)
    try:
        parsed = Token.read(sys.stdin.readline() if token == "-" else token)  # noqa: S105
        ca = client.authority(parsed)
        invited = client.invitation(parsed, ca)
        if invited.name != name:
            raise Failed(f"the token is for {invited.name}, not for {name}; it was not used")
        keys = {role: new_key() for role in invited.roles}
        signed = client.join(parsed, ca, keys)
        machine.keep_authority(ca)
        machine.keep_revocations(signed.revoked.encode())
        for role, key in keys.items():
            machine.keep(role, signed.certificates[role].encode(), key)
        write(machine.folder / "authority", f"{parsed.address}\n{parsed.port}\n".encode())
        written = machine.write_settings(name, signed.cluster, signed.endpoints)
    except (BadToken, EnrolmentFailed, OSError) as error:
        raise Failed(str(error)) from None
    click.echo(f"{name} has joined cluster {signed.cluster} as {', '.join(keys)}.")
    for path in written:
        click.echo(f"{path} written")


@click.command()
@click.option("--force", is_flag=True, help="Also what does not expire soon.")
@folder_option
def renew(force: bool, folder: Path) -> None:
    """Renew this machine's certificates, where they expire soon. To be run daily (holdfast-renew.timer)."""
    machine = Machine(folder)
    failed = []
    for role in machine.roles():
        if role in (Role.ADMIN, Role.AUTHORITY):
            continue
        certificate = x509.load_pem_x509_certificate(machine.certificate(role).read_bytes())
        if not force and not expires_soon(certificate, datetime.now(UTC)):
            continue
        try:
            key = new_key()
            credentials = Credentials(machine.ca, machine.certificate(role), machine.key(role))
            signed = client.renew(*_authority(machine), credentials, key)
            machine.keep(role, signed.certificates[role].encode(), key)
            until = x509.load_pem_x509_certificate(signed.certificates[role].encode()).not_valid_after_utc
            click.echo(f"{role}: renewed until {until:%Y-%m-%d}")
        except (EnrolmentFailed, OSError, ValueError) as error:
            failed.append(f"{role}: {error}")
    if failed:
        raise Failed("; ".join(failed))


def _authority(machine: Machine) -> tuple[str, int]:
    """Where this machine joined, or itself."""
    try:
        address, port = (machine.folder / "authority").read_text().split()
    except FileNotFoundError:
        return "localhost", PORT
    return address, int(port)
