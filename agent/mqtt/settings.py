"""How the MQTT broker is reached. A password is in a file of its own: never in argv, etcd, a log or a status."""

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from holdfast.coordinator.model.node import Address, Port
from pydantic import BaseModel, ConfigDict, model_validator

_PLAIN, _TLS = 1883, 8883
"""The ports that IANA gave to mqtt and secure-mqtt."""


class MqttSettings(BaseModel):
    """`mqtt:` in agent.yaml; as JSON in `HOLDFAST_MQTT`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Address
    port: Port | None = None
    """Without one: 8883 with `ca`, else 1883."""
    ca: Path | None = None
    """The authority that signed the broker's certificate; with it TLS is spoken, and the host's name is checked."""
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    """Its first line is the user's password."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate for the broker needs both cert and key")
        if self.cert and not self.ca:
            raise ValueError("a certificate is shown under TLS only, which needs ca: who signed the broker's")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("a user of the broker needs both user and password_file")
        if self.user and not self.ca and not self._is_here():
            raise ValueError("the password would cross the network in the clear: give ca, so that TLS is spoken")
        return self

    def _is_here(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def at(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (_TLS if self.ca else _PLAIN)

    def context(self) -> ssl.SSLContext | None:
        """Read the certificates; None without TLS. OSError (so is ssl.SSLError) if one cannot be used."""
        if self.ca is None:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context

    def password(self) -> str | None:
        """Read it; None without a user. OSError or UnicodeDecodeError."""
        if self.password_file is None:
            return None
        lines = self.password_file.read_text().splitlines()
        return lines[0] if lines else ""
