"""How a role finds etcd, and the coordinator's settings: environment before file before default."""

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from holdfast.coordinator.model.keyspace import DEFAULT_CLUSTER, Keyspace
from holdfast.coordinator.model.names import NodeName
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.login import Login
from holdfast.coordinator.store.tls import Tls
from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_ENDPOINT = "http://127.0.0.1:2379"

ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_endpoints(values: object) -> object:
    for value in values if isinstance(values, list | tuple) else ():
        parts = urlsplit(str(value))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port is None or parts.path.strip("/"):
            raise ValueError(f"{value!r} is no endpoint of etcd; write http://HOST:2379 or https://HOST:2379")
    return values


Endpoints = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_check_endpoints), BeforeValidator(_split), Field(min_length=1)
]


class EtcdSettings(BaseSettings):
    """Where etcd is, and which cluster of its keyspace is ours; `HOLDFAST_ENDPOINTS` … in the environment."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", env_ignore_empty=True, extra="forbid", frozen=True)

    endpoints: Endpoints = (DEFAULT_ENDPOINT,)
    cluster: ClusterName = DEFAULT_CLUSTER
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    """Of etcd; without one it goes by the common name in `cert`."""
    password_file: Path | None = None
    """Its first line is the user's password."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        schemes = {urlsplit(endpoint).scheme for endpoint in self.endpoints}
        if len(schemes) > 1:
            raise ValueError("endpoints mix http and https; use one of them for all")
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate needs both cert and key")
        if schemes == {"http"} and (self.ca or self.cert):
            raise ValueError("certificates are given, but the endpoints are http: write https://")
        if schemes == {"https"} and self.ca is None:
            raise ValueError("https endpoints need ca, the certificate of the authority that signed etcd's")
        return self

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("a user of etcd needs both user and password_file")
        for endpoint in map(urlsplit, self.endpoints):
            if self.user and endpoint.scheme == "http" and endpoint.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise ValueError("a password would cross the network in the clear: write https:// endpoints")
        return self

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """From a YAML file, if given; the environment overrides it. OSError, yaml.YAMLError, ValidationError."""
        data: Any = (yaml.safe_load(path.read_text()) if path else None) or {}
        if not isinstance(data, dict):
            raise yaml.YAMLError("settings are a mapping, such as `name: w1`")
        return cls(**{name: value for name, value in data.items() if not os.environ.get(f"HOLDFAST_{name}".upper())})

    @property
    def keyspace(self) -> Keyspace:
        """The keys of this cluster."""
        return Keyspace(self.cluster)

    def store(self) -> EtcdStore:
        """A client, to be made and closed on the event loop that uses it. OSError if a certificate cannot be read."""
        hosts = [urlsplit(endpoint).netloc for endpoint in self.endpoints]
        tls = Tls(self.ca, self.cert, self.key) if self.ca else None
        login = Login(self.user, self.password_file) if self.user and self.password_file else None
        return EtcdStore(hosts, tls, login)


class CoordinatorSettings(EtcdSettings):
    """Settings of `holdfast-coordinator`."""

    name: NodeName = Field(default_factory=lambda: socket.gethostname().partition(".")[0])
    """Under which it leads; written into every owner that it creates."""
    state: Path = Path("/var/lib/holdfast-coordinator")
    """Where it keeps which keyspace it decided in."""
