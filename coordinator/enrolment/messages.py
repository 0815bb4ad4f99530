"""What joining and renewing machines and the authority's service say to one another, as JSON over HTTPS."""

from holdfast.coordinator.identity.identity import Role
from pydantic import BaseModel, ConfigDict

PORT = 7422
LARGEST = 64 * 1024
"""Bytes of a message."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Join(_Message):
    """`POST /v1/join`: a signing request (PEM) for each role that the token is for."""

    secret: str
    requests: dict[Role, str]


class Renew(_Message):
    """`POST /v1/renew`, under the certificate that is to be renewed."""

    request: str


class Roles(_Message):
    """`POST /v1/roles`: asks which roles a token is for, without using it up."""

    secret: str


class Invitation(_Message):
    """Whom a token is for."""

    name: str
    roles: tuple[Role, ...]


class Certificates(_Message):
    """What was signed, and the cluster that it belongs to. All PEM."""

    certificates: dict[Role, str]
    revoked: str
    cluster: str
    endpoints: tuple[str, ...]
