"""`holdfast ca`: the cluster's certificate authority, on the one machine that has its key."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from holdfast.coordinator.access import Access
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.etcd_access import as_admin
from holdfast.coordinator.cli.machine import Machine, folder_option
from holdfast.coordinator.cli.output import Failed, complain, console, show, table
from holdfast.coordinator.enrolment.messages import PORT
from holdfast.coordinator.enrolment.service import Service
from holdfast.coordinator.enrolment.token import Invited, Token, TokenFiles
from holdfast.coordinator.identity.authority import LIFE, fingerprint, new_key
from holdfast.coordinator.identity.authority_files import AuthorityError, AuthorityFiles
from holdfast.coordinator.identity.identity import Identity, NotAnIdentity, Role
from holdfast.coordinator.identity.verify import expires_soon
from holdfast.coordinator.log import configure
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.port import Store

JOINABLE = [role.value for role in Role if role not in (Role.ADMIN, Role.AUTHORITY)]


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC)


@click.group()
def ca() -> None:
    """The cluster's certificate authority: who belongs to it, and who no longer does."""


@ca.command()
@folder_option
@pass_connection
def init(connection: Connection, folder: Path) -> None:
    """Make an authority (`holdfast init` does this and more)."""
    try:
        made = AuthorityFiles(Machine(folder).authority).create(connection.settings.cluster, now())
    except (AuthorityError, OSError) as error:
        raise Failed(str(error)) from None
    click.echo(f"Authority of cluster {connection.settings.cluster} made: SHA-256 {fingerprint(made.certificate)}")


@ca.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="node", show_default=True)
@click.option(
    "--address", "addresses", multiple=True, help="Where a server is also known: a host name or an IP address."
)
@click.option("--days", type=click.IntRange(1, 3650), default=LIFE.days, show_default=True, help="How long it counts.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where to write.  [default: ./NAME]")
@folder_option
def issue(name: str, role: str, addresses: tuple[str, ...], days: int, out: Path | None, folder: Path) -> None:
    """Make a key and a certificate for NAME, to be carried there by hand (`ca token` needs no carrying)."""
    machine = Machine(folder)
    files = AuthorityFiles(machine.authority)
    try:
        identity, key = Identity(name, Role(role)), new_key()
        life = timedelta(days=days)
        made = files.issue(identity, key.public_key(), now(), addresses=addresses, life=life)
        there = Bundle(out or Path(name))
        there.keep_authority(files.certificate)
        there.keep(identity.role, made, key)
    except (AuthorityError, NotAnIdentity, OSError) as error:
        raise Failed(str(error)) from None
    click.echo(f"{there.certificate(identity.role)} and .key: {identity}, until {made.not_valid_after_utc:%Y-%m-%d}")


class Bundle(Machine):
    """The files of one identity in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pki = folder


@ca.command()
@click.argument("name")
@click.option("--role", "roles", type=click.Choice(JOINABLE), multiple=True, help="Only in this role.  [default: all]")
@click.option("--offline", is_flag=True, help="Do not tell etcd; the list is then to be carried to the nodes by hand.")
@folder_option
@pass_connection
def revoke(connection: Connection, name: str, roles: tuple[str, ...], offline: bool, folder: Path) -> None:
    """Let NAME's certificates no longer count: etcd and the agents refuse them within seconds."""
    machine = Machine(folder)
    files = AuthorityFiles(machine.authority)
    wanted = frozenset(map(Role, roles)) or frozenset(Role)
    try:
        gone = files.revoke(name, wanted, now())
        identities = {e.identity for e in files.issued() if e.identity.name == name and e.identity.role in wanted}
        machine.keep_revocations(files.revocation_list)
    except (AuthorityError, OSError) as error:
        raise Failed(str(error)) from None
    click.echo(f"{len(gone)} certificates of {name} revoked.")
    if offline:
        complain(
            f"etcd was not told. Copy {machine.authority / 'crl.pem'} to each node as /var/lib/holdfast/revoked.pem"
        )
        return

    async def tell(access: Access, store: Store) -> None:
        await publish(store, connection.keyspace, files)
        for identity in sorted(identities, key=str):
            await access.expel(identity)

    as_admin(connection.settings, machine, tell)
    click.echo("etcd and the agents know.")


async def publish(store: Store, keyspace: Keyspace, files: AuthorityFiles) -> None:
    """Put the revocation list where the agents look."""
    await store.put(keyspace.revoked, files.revocation_list)


@ca.command("list")
@inputs.output_option
@folder_option
def list_(output: str, folder: Path) -> None:
    """Show every certificate that was issued."""
    try:
        issued = AuthorityFiles(Machine(folder).authority).issued()
    except (AuthorityError, OSError) as error:
        raise Failed(str(error)) from None
    rows = [
        {
            "name": each.identity.name,
            "role": each.identity.role.value,
            "until": each.certificate.not_valid_after_utc.isoformat(),
            "state": _state(each.revoked, each.certificate.not_valid_after_utc, expires_soon(each.certificate, now())),
            "serial": f"{each.certificate.serial_number:x}",
        }
        for each in issued
    ]
    if output == "json":
        inputs.echo_json(rows)
        return
    headers = ("NAME", "ROLE", "UNTIL", "STATE", "SERIAL")
    show(table(headers, [tuple(row.values()) for row in rows], console().is_terminal))


def _state(revoked: bool, until: datetime, soon: bool) -> str:
    if revoked:
        return "revoked"
    if until <= now():
        return "expired"
    return "expires soon" if soon else "valid"


@ca.command()
@click.argument("name")
@click.option("--role", "roles", type=click.Choice(JOINABLE), multiple=True, help="May be given several times.")
@click.option("--witness", is_flag=True, help="A machine that runs etcd and a coordinator, and no guests.")
@click.option(
    "--address", "addresses", multiple=True, help="Where NAME's etcd is reached: a host name or an IP address."
)
@click.option("--at", required=True, help="This machine's address, as NAME reaches it.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Of holdfast ca serve.")
@click.option("--minutes", type=click.IntRange(1, 1440), default=15, show_default=True, help="How long it counts.")
@folder_option
@pass_connection
def token(
    connection: Connection,
    name: str,
    roles: tuple[str, ...],
    witness: bool,
    addresses: tuple[str, ...],
    at: str,
    port: int,
    minutes: int,
    folder: Path,
) -> None:
    """Print a token by which machine NAME joins, once; without --role as a node."""
    machine = Machine(folder)
    chosen = tuple(map(Role, dict.fromkeys(roles)))
    if witness:
        chosen = tuple(dict.fromkeys((*chosen, Role.COORDINATOR, Role.MEMBER)))
    chosen = chosen or (Role.NODE,)
    try:
        identities = [Identity(name, role) for role in chosen]
        authority = AuthorityFiles(machine.authority).load()
    except (AuthorityError, NotAnIdentity) as error:
        raise Failed(str(error)) from None

    async def admit(access: Access, _: Store) -> None:
        for identity in identities:
            await access.admit(identity, connection.keyspace)

    as_admin(connection.settings, machine, admit)
    invited = Invited(
        name=name,
        roles=chosen,
        addresses=addresses,
        expires=now() + timedelta(minutes=minutes),
        cluster=connection.settings.cluster,
        endpoints=connection.settings.endpoints,
    )
    secret = TokenFiles(machine.authority).make(invited)
    click.echo(str(Token(at, port, fingerprint(authority.certificate), secret)))


@ca.command()
@click.option("--listen", default="0.0.0.0", show_default=True, help="Address.")  # noqa: S104 - any machine may join
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@folder_option
def serve(listen: str, port: int, folder: Path) -> None:
    """Sign for who joins with a token, and renew, until told to stop."""
    machine = Machine(folder)
    if not machine.has(Role.AUTHORITY):
        raise Failed(
            f"{machine.certificate(Role.AUTHORITY)} is not here; this is for the machine where holdfast init ran"
        )
    configure()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, task.cancel)
        service = Service(machine.authority, now)
        certificate, key = machine.certificate(Role.AUTHORITY), machine.key(Role.AUTHORITY)
        await service.serve(listen, port, certificate, key, lambda: click.echo(f"serving on {listen}:{port}", err=True))

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        return
    except OSError as error:
        raise Failed(f"the authority's service cannot be started: {error}") from None
