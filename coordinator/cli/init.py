"""`holdfast init`: the first machine of a cluster. It can be run again, and goes on where it stopped."""

import uuid
from pathlib import Path

import click
from holdfast.coordinator.access import Access
from holdfast.coordinator.cli.ca import now, publish
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.etcd_access import as_admin
from holdfast.coordinator.cli.machine import Machine, folder_option
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.identity.authority import new_key
from holdfast.coordinator.identity.authority_files import AuthorityError, AuthorityFiles
from holdfast.coordinator.identity.identity import Identity, NotAnIdentity, Role
from holdfast.coordinator.model.owner import Meta
from holdfast.coordinator.store.port import Put, Store, absent


@click.command()
@click.argument("name")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    required=True,
    help="Where this machine's etcd is reached: a host name or an IP address. The first one goes into settings.",
)
@click.option("--endpoint", "endpoints", multiple=True, help="URL of an etcd member.  [default: https://ADDRESS:2379]")
@click.option("--witness", is_flag=True, help="This machine runs no guests, so it is no node.")
@folder_option
@pass_connection
def init(
    connection: Connection,
    name: str,
    addresses: tuple[str, ...],
    endpoints: tuple[str, ...],
    witness: bool,
    folder: Path,
) -> None:
    """Make the first machine of a cluster, called NAME.

    Makes the authority, this machine's certificates and settings; then, once etcd runs with them, etcd's users and
    roles, and turns its access control on.
    """
    machine = Machine(folder)
    files = AuthorityFiles(machine.authority)
    urls = endpoints or (f"https://{_host(addresses[0])}:2379",)
    settings = connection.settings.model_copy(update={"endpoints": urls})
    roles = [role for role in Role if role is not Role.MIRROR and not (witness and role is Role.NODE)]
    try:
        if not files.exists:
            files.create(settings.cluster, now())
            click.echo(f"Authority of cluster {settings.cluster} made in {machine.authority}")
        machine.keep_authority(files.certificate)
        machine.keep_revocations(files.revocation_list)
        for identity in [Identity(name, role) for role in roles]:
            if not machine.has(identity.role):
                key = new_key()
                made = files.issue(identity, key.public_key(), now(), addresses=(*addresses, "localhost", "127.0.0.1"))
                machine.keep(identity.role, made, key)
                click.echo(f"Certificate of {identity} issued")
        for written in machine.write_settings(name, settings.cluster, settings.endpoints):
            click.echo(f"{written} written")
        known = [each.identity for each in files.issued() if not each.revoked]
    except (AuthorityError, NotAnIdentity, OSError) as error:
        raise Failed(str(error)) from None

    async def work(access: Access, store: Store) -> None:
        await access.set_up()
        for identity in dict.fromkeys(known):
            await access.admit(identity, settings.keyspace)
        await publish(store, settings.keyspace, files)
        meta = Meta(cluster_uuid=str(uuid.uuid4()))
        await store.transact([absent(settings.keyspace.meta)], [Put(settings.keyspace.meta, meta.to_json())])

    try:
        as_admin(settings, machine, work)
    except Failed:
        click.echo(_etcd_settings(machine, addresses[0], name), err=True)
        raise
    click.echo(f"etcd lets in who has a certificate, and each may write what is its own. Next: {_NEXT}")


_NEXT = (
    "start holdfast-coordinator and holdfast-agent here; holdfast ca serve, and holdfast ca token for each other node"
)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _etcd_settings(machine: Machine, address: str, name: str) -> str:
    """What to write into etcd's own settings."""
    host = _host(address)
    ca, certificate, key = machine.ca, machine.certificate(Role.MEMBER), machine.key(Role.MEMBER)
    return (
        "Start etcd with these settings (/etc/default/etcd on Debian), then run holdfast init again:\n"
        f"  ETCD_NAME={name}\n"
        f"  ETCD_LISTEN_CLIENT_URLS=https://{host}:2379\n  ETCD_ADVERTISE_CLIENT_URLS=https://{host}:2379\n"
        f"  ETCD_LISTEN_PEER_URLS=https://{host}:2380\n  ETCD_INITIAL_ADVERTISE_PEER_URLS=https://{host}:2380\n"
        f"  ETCD_CERT_FILE={certificate}\n  ETCD_KEY_FILE={key}\n  ETCD_TRUSTED_CA_FILE={ca}\n"
        "  ETCD_CLIENT_CERT_AUTH=true\n"
        f"  ETCD_PEER_CERT_FILE={certificate}\n  ETCD_PEER_KEY_FILE={key}\n  ETCD_PEER_TRUSTED_CA_FILE={ca}\n"
        "  ETCD_PEER_CLIENT_CERT_AUTH=true\n"
        f"  ETCD_CLIENT_CRL_FILE={machine.revocations}\n"
        "  ETCD_AUTO_COMPACTION_RETENTION=1h"
    )
