"""`holdfast-agent`: one per node, under systemd."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import click
import structlog
import yaml
from holdfast.agent.agent import Agent
from holdfast.agent.config import AgentSettings, InsecureRefused
from holdfast.agent.host import LinuxHost
from holdfast.agent.mirror.export import StorageExport
from holdfast.agent.mirror.pve import PveMirror
from holdfast.agent.mqtt.announcer import notice
from holdfast.agent.mqtt.outbox import Outbox
from holdfast.agent.mqtt.publisher import Publisher
from holdfast.agent.ports import Host
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.agent.transfer.tcp import TcpWire
from holdfast.agent.transfer.tls import TlsWire
from holdfast.coordinator import __version__
from holdfast.coordinator.grouped import TaskGroup, first
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.log import configure
from holdfast.coordinator.model.announcement import Topics
from holdfast.coordinator.planning.desired import describe
from pydantic import ValidationError

log = structlog.get_logger()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings as YAML; the environment overrides them.")
@click.option("--verbose", is_flag=True, help="Log every decision.")
@click.version_option(__version__)
def main(config: Path | None, verbose: bool) -> None:
    """Keep the disks of this node's guests where they should be, until told to stop."""
    configure(verbose=verbose)
    try:
        settings = AgentSettings.read(config)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        text = describe(error) if isinstance(error, ValidationError) else str(error)
        raise click.UsageError(f"the settings cannot be used: {text}") from None
    try:
        credentials = settings.credentials()
    except (InsecureRefused, OSError, ValueError) as error:
        raise click.UsageError(f"the agent is not started: {error}") from None
    code = asyncio.run(_run(settings, credentials))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a call into librbd that hangs must not keep the process: nothing is left to be done


async def _serve(agent: Agent, settings: AgentSettings, host: Host, publisher: Publisher | None) -> None:
    """Until cancelled: the agent; beside it what answers the command line, reads Proxmox's files, and speaks MQTT."""
    async with TaskGroup() as group:
        group.create_task(agent.run())
        group.create_task(agent.api.serve(settings.listen, settings.api_port, settings.socket))
        if settings.mirror is not None:
            group.create_task(_mirror(settings, settings.mirror, host))
        if settings.storage_cfg is not None:
            group.create_task(StorageExport(agent.cache, settings.keyspace, settings.storage_cfg, host).run())
        if publisher is not None:
            group.create_task(publisher.run())


async def _mirror(settings: AgentSettings, root: Path, host: Host) -> None:
    """Read Proxmox's files, as the identity that may write what they say; until cancelled."""
    async with settings.mirror_store() as store:
        await PveMirror(store, settings.keyspace, settings.node, root, host=host).run()


def _publisher(settings: AgentSettings, host: Host) -> Publisher | None:
    if settings.mqtt is None:
        return None
    outbox = Outbox(notice(Topics(settings.cluster), settings.node, host.now))
    return Publisher(settings.mqtt, f"holdfast-{settings.cluster}-{settings.node}", outbox, host)


async def _run(settings: AgentSettings, credentials: Credentials | None) -> int:
    """0 after a stop that was asked for, 1 after a failure."""
    wire = TlsWire(credentials, settings.trusted) if credentials else TcpWire()
    if credentials is None:
        log.warning("without certificates: whoever reaches the ports can pose as any node", listen=settings.listen)
    guests = settings.pauser()
    await guests.thaw_all()
    host = LinuxHost(settings.state, guests)
    publisher = _publisher(settings, host)
    loop = asyncio.get_running_loop()
    async with settings.store() as store:
        volumes = NodeVolumes(
            settings.node, host.now, settings.ceph_keys, settings.ceph_conf, grace=settings.ceph_trash
        )
        parts = Agent(settings, store, volumes, wire, host, credentials, publisher)
        volumes.storages, volumes.token = parts.storages, parts.token
        agent = asyncio.create_task(_serve(parts, settings, host, publisher))
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, agent.cancel)
        try:
            await agent
        except asyncio.CancelledError:
            log.info("stopped", node=settings.node)
            return 0
        except BaseExceptionGroup as group:
            log.error("the agent failed", error=str(first(group)), exc_info=group)
            return 1
        finally:
            host.notify("STOPPING=1")
            volumes.close()
    return 1
