"""The agent's settings: environment before file before default."""

import socket
from pathlib import Path
from typing import Annotated

from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.model.names import NodeName
from holdfast.coordinator.model.node import API_PORT, TRANSFER_PORT, Port
from pydantic import Field


class AgentSettings(EtcdSettings):
    """Settings of `holdfast-agent`."""

    node: NodeName = Field(default_factory=lambda: socket.gethostname().partition(".")[0])
    """This node's name in desired state."""
    listen: str = "0.0.0.0"  # noqa: S104 - peers connect to whatever address desired state gives
    transfer_port: Port = TRANSFER_PORT
    api_port: Port = API_PORT
    transfers: Annotated[int, Field(ge=1, le=64)] = 4
    """How many disks are sent at once."""
    state: Path = Path("/var/lib/holdfast")
    mirror: Path | None = None
    """`/etc/pve` on a Proxmox node: its storages and guests become desired state, by one elected node."""
