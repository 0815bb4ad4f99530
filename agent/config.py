"""The agent's settings: environment before file before default."""

import socket
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Self

from holdfast.agent.guests.pauser import Pauser, Places
from holdfast.agent.mqtt.settings import MqttSettings
from holdfast.agent.storage.rbd.trash import GRACE
from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Identity, Role
from holdfast.coordinator.model.answers import SOCKET
from holdfast.coordinator.model.names import NodeName
from holdfast.coordinator.model.node import API_PORT, TRANSFER_PORT, Port
from holdfast.coordinator.store.client import EtcdStore
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class InsecureRefused(Exception):
    """The settings would let anybody in; the message says what to set."""


class AgentSettings(EtcdSettings):
    """Settings of `holdfast-agent`."""

    node: NodeName = Field(default_factory=lambda: socket.gethostname().partition(".")[0])
    """This node's name in desired state."""
    listen: str = "0.0.0.0"  # noqa: S104 - peers connect to whatever address desired state gives
    transfer_port: Port = TRANSFER_PORT
    api_port: Port = API_PORT
    trusted: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)] = ()
    """Networks on which transfers go without TLS, and a peer is believed to be who it says it is."""
    insecure: bool = False
    """Run without certificates: whoever reaches the ports can pose as any node."""
    transfers: Annotated[int, Field(ge=1, le=64)] = 4
    """How many disks are sent at once."""
    qmp: str = Places.qmp
    """QEMU's monitor of a VM (`-qmp unix:…`), by its VMID; the default is Proxmox's."""
    qga: str = Places.agent
    """The socket of a VM's guest agent, by its VMID; the default is Proxmox's."""
    cgroup: str = Places.cgroup
    """The cgroup (version 2) of a container, by its VMID; the default is Proxmox's."""
    pause: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Seconds for which a guest may be paused or frozen at most."""
    socket: Path = SOCKET
    """Where the API answers on this machine, to root."""
    state: Path = Path("/var/lib/holdfast")
    ceph_keys: Path = Path("/etc/pve/priv/ceph")
    """Where the keys of Ceph storages are: STOREID.keyring, and STOREID.conf where one needs its own configuration."""
    ceph_conf: Path = Path("/etc/ceph/ceph.conf")
    """The configuration of Ceph for storages that have none of their own."""
    ceph_trash: Annotated[float, Field(ge=0)] = GRACE
    """Seconds for which an image that Holdfast removes stays in Ceph's trash."""
    mirror: Path | None = None
    """`/etc/pve` on a Proxmox node: its storages and guests become desired state, by one elected node."""
    mirror_cert: Path | None = None
    mirror_key: Path | None = None
    """The identity that writes them: a node's own may not write desired state."""
    storage_cfg: Path | None = None
    """On a node without Proxmox: a file to keep as the desired storages are, in storage.cfg's format."""
    mqtt: MqttSettings | None = None
    """A broker that is told what is reported."""

    @model_validator(mode="after")
    def _insecure_is_meant(self) -> Self:
        if self.insecure and self.cert:
            raise ValueError("insecure and certificates contradict each other; name networks that need none as trusted")
        if (self.mirror_cert is None) != (self.mirror_key is None):
            raise ValueError("the mirror's certificate needs both mirror_cert and mirror_key")
        if self.mirror and self.cert and not self.mirror_cert:
            raise ValueError("mirror needs an identity of its own: holdfast ca token NODE --role node --role mirror")
        if self.mirror and self.storage_cfg:
            raise ValueError("mirror reads Proxmox's storage.cfg, storage_cfg writes one: a node needs one of them")
        if self.trusted and not self.cert:
            raise ValueError("trusted networks are exceptions from TLS, which needs ca, cert and key")
        return self

    def pauser(self) -> Pauser:
        """What pauses guests here."""
        marks = self.socket.parent / "paused"  # of two agents on one machine each has its own
        return Pauser(Places(self.qmp, self.cgroup, marks, self.qga), self.pause)

    def mirror_store(self) -> EtcdStore:
        """A client for the mirror. OSError if a certificate cannot be read."""
        if self.mirror_cert is None:
            return self.store()
        return self.model_copy(update={"cert": self.mirror_cert, "key": self.mirror_key}).store()

    def credentials(self) -> Credentials | None:
        """This node's identity; None where it runs without. Raises InsecureRefused, OSError or ValueError."""
        if self.ca and self.cert and self.key:
            found = Credentials(self.ca, self.cert, self.key)
            if found.identity != Identity(self.node, Role.NODE):
                raise InsecureRefused(
                    f"{self.cert} is the certificate of {found.identity}, but this is node {self.node}: "
                    f"set `node`, or join it: holdfast ca token {self.node}"
                )
            return found
        if not self.insecure and not _is_loopback(self.listen):
            raise InsecureRefused(
                "this node has no certificate (ca, cert, key), so anybody could pose as any node. "
                f"Join it to the cluster (holdfast join {self.node} TOKEN), or, where every machine on the "
                "network is trusted, set `insecure: true`"
            )
        return None


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
