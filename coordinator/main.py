"""`holdfast-coordinator`: runs beside etcd; one is elected and decides."""

import asyncio
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import click
import structlog
import yaml
from holdfast.coordinator import __version__
from holdfast.coordinator.config import CoordinatorSettings
from holdfast.coordinator.grouped import TaskGroup, ungrouped
from holdfast.coordinator.host import Host, LinuxHost
from holdfast.coordinator.kept_mark import KeptMark
from holdfast.coordinator.log import configure
from holdfast.coordinator.owners import KeyspaceRefused, Owners
from holdfast.coordinator.planning.desired import describe
from holdfast.coordinator.sd_notify import notify
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.election import Election
from holdfast.coordinator.store.port import Store, StoreError
from pydantic import ValidationError

log = structlog.get_logger()

LEADER_TTL = 10.0
"""Seconds after which another coordinator may lead. It decides nothing that a guest waits for while it runs."""


async def coordinate(
    store: Store, settings: CoordinatorSettings, host: Host, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4
) -> None:
    """Stand for election and, while elected, decide; until cancelled. Raises what makes going on impossible."""
    keyspace = settings.keyspace
    kept = KeptMark(host, keyspace)
    cache = Cache(store, keyspace.root, clock=host.monotonic, admit=kept.admit)
    owners = Owners(store, cache, keyspace, settings.name, host, new_uuid)
    election = Election(store, keyspace.leader, settings.name, ttl=LEADER_TTL, clock=host.monotonic)
    async with TaskGroup() as group:
        group.create_task(kept.keep(cache))
        group.create_task(cache.run())
        await cache.synced.wait()  # whoever may not decide in this keyspace does not stand
        group.create_task(election.run(owners.lead))


async def serve(settings: CoordinatorSettings) -> None:
    """Run until SIGTERM or SIGINT; a leader gives its place up at once."""
    loop = asyncio.get_running_loop()
    async with settings.store() as store:
        running = asyncio.create_task(coordinate(store, settings, LinuxHost(settings.state)))

        def stop() -> None:
            notify("STOPPING=1")
            log.info("coordinator.stopping")
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        log.info("coordinator.started", name=settings.name, cluster=settings.cluster, endpoints=settings.endpoints)
        notify("READY=1")
        try:
            await running
        except asyncio.CancelledError:
            log.info("coordinator.stopped")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML: endpoints, cluster, ca, cert, key, user, password_file, name, state. "
    "The environment (HOLDFAST_ENDPOINTS ...) overrides it.",
)
@click.version_option(__version__, prog_name="holdfast-coordinator")
def command(config: Path | None) -> None:
    """Decide for a cluster: of the coordinators that run, one is elected."""
    try:
        settings = CoordinatorSettings.read(config)
    except ValidationError as error:
        raise click.UsageError(describe(error)) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{config} cannot be read: {error}") from None
    configure()
    try:
        with ungrouped():
            asyncio.run(serve(settings))
    except (StoreError, KeyspaceRefused, OSError) as error:
        log.error("coordinator.failed", reason=str(error))
        raise SystemExit(1) from None


def main() -> None:
    """Run the coordinator."""
    command(prog_name="holdfast-coordinator")
