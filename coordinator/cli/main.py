"""The `holdfast` command: people steer by writing desired state, and see what comes of it."""

import importlib
import logging
import os
from pathlib import Path

import click
import structlog
import yaml
from click.shell_completion import get_completion_class
from holdfast.coordinator import __version__
from holdfast.coordinator.cli.apply import apply, diff
from holdfast.coordinator.cli.bwlimit import bwlimit
from holdfast.coordinator.cli.calendar import calendar
from holdfast.coordinator.cli.connection import Connection
from holdfast.coordinator.cli.explain import explain
from holdfast.coordinator.cli.guest import guest
from holdfast.coordinator.cli.importing import import_
from holdfast.coordinator.cli.leftovers import leftovers
from holdfast.coordinator.cli.plan import plan
from holdfast.coordinator.cli.points import points
from holdfast.coordinator.cli.pvesr import pvesr
from holdfast.coordinator.cli.records import delete, get
from holdfast.coordinator.cli.replicate import replicate
from holdfast.coordinator.cli.retention import retention
from holdfast.coordinator.cli.schema import schema
from holdfast.coordinator.cli.snapshot_group import snapshot
from holdfast.coordinator.cli.status import status
from holdfast.coordinator.cli.storage import storage
from holdfast.coordinator.cli.volume import volume
from holdfast.coordinator.config import DEFAULT_ENDPOINT, EtcdSettings
from holdfast.coordinator.model.keyspace import DEFAULT_CLUSTER
from holdfast.coordinator.planning.desired import describe
from pydantic import ValidationError

_IDENTITIES = {"init": "init", "join": "join", "renew": "join", "ca": "ca", "doctor": "doctor"}
"""Command → its module here. Imported when asked for: cryptography would slow the start of every other one."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_IDENTITIES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _IDENTITIES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"holdfast.coordinator.cli.{_IDENTITIES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    envvar="HOLDFAST_ENDPOINTS",
    help=f"URL of an etcd member; may be given several times.  [default: operator.yaml's, else {DEFAULT_ENDPOINT}]",
)
@click.option("--cluster", envvar="HOLDFAST_CLUSTER", help=f"Which cluster.  [default: {DEFAULT_CLUSTER}]")
@click.option("--ca", type=_FILE, envvar="HOLDFAST_CA", help="Certificate of the authority that signed etcd's (PEM).")
@click.option("--cert", type=_FILE, envvar="HOLDFAST_CERT", help="Certificate to show to etcd (PEM).")
@click.option("--key", type=_FILE, envvar="HOLDFAST_KEY", help="Its private key (PEM).")
@click.version_option(__version__, prog_name="holdfast")
@click.pass_context
def cli(
    ctx: click.Context,
    endpoints: tuple[str, ...],
    cluster: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Keep every guest's disks where you said they should be.

    Exit codes: 0 done, 1 failed or refused, 2 wrong usage. Every option can also be given in the environment:
    HOLDFAST_ENDPOINTS (separated by commas), HOLDFAST_CLUSTER, HOLDFAST_CA, HOLDFAST_CERT, HOLDFAST_KEY.
    Without an endpoint, what /etc/holdfast/operator.yaml says is used (holdfast init and join write it).
    """
    urls = tuple(part for endpoint in endpoints for part in endpoint.split(",") if part)
    given = {"endpoints": urls, "cluster": cluster, "ca": ca, "cert": cert, "key": key}
    given = {name: value for name, value in given.items() if value}
    file = Path(os.environ.get("HOLDFAST_DIR", "/etc/holdfast")) / "operator.yaml"
    try:
        written = yaml.safe_load(file.read_text()) if not urls and file.exists() else {}
        settings = EtcdSettings(**{**written, **given})
    except ValidationError as error:
        raise click.UsageError(describe(error)) from None
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise click.UsageError(f"{file} cannot be used: {error}") from None
    ctx.obj = Connection(settings)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete holdfast's arguments.

    For bash: `holdfast completion bash > /etc/bash_completion.d/holdfast`
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows the three shells"
    click.echo(made(cli, {}, "holdfast", "_HOLDFAST_COMPLETE").source())


_STEERING = (apply, get, delete, diff, schema, status, plan, explain, points, replicate, snapshot, leftovers, import_)
_OFFLINE = (storage, volume, guest, calendar, retention, bwlimit, pvesr)
"""They read Proxmox's files and answer without etcd."""

for _command in (*_STEERING, *_OFFLINE):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    # what libraries log is for services; here every outcome is said once, in the command's own words
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    cli(prog_name="holdfast")
