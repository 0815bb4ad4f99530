"""An identity: a name in a role, as a certificate's subject says it.

etcd takes the subject's common name for the user (`--client-cert-auth`), so no two identities share one, and none but
the administrator's is `root`, which etcd lets do everything.
"""

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID
from holdfast.coordinator.model.names import NodeName
from pydantic import TypeAdapter, ValidationError

_NAME: TypeAdapter[str] = TypeAdapter(NodeName)
ROOT = "root"


class Role(StrEnum):
    """What a certificate is for; its subject's organizational unit."""

    NODE = "node"
    """An agent: its reports, and streams between nodes."""
    COORDINATOR = "coordinator"
    OPERATOR = "operator"
    """People and automation: desired state."""
    MIRROR = "mirror"
    """What an agent mirrors of Proxmox's files with."""
    MEMBER = "member"
    """A member of etcd, towards clients and towards other members."""
    AUTHORITY = "authority"
    """Where nodes join and renew."""
    ADMIN = "admin"
    """etcd's `root`: makes users and roles."""


class NotAnIdentity(ValueError):
    """A certificate or a name that is none of ours; the message says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A name (of a machine or a person, written as a node's name) in one role."""

    name: str
    role: Role

    def __post_init__(self) -> None:
        try:
            _NAME.validate_python(self.name)
        except ValidationError:
            raise NotAnIdentity(f"{self.name!r} is no name: letters, digits and dashes, 63 at most") from None
        if self.name.lower() == ROOT:
            raise NotAnIdentity(f"{self.name!r} may not be a name: etcd lets its user {ROOT} do everything")

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def common_name(self) -> str:
        """The certificate's common name, which is etcd's user. `@` is in no node's name."""
        match self.role:
            case Role.NODE:
                return self.name
            case Role.ADMIN:
                return ROOT
            case _:
                return f"{self.role}@{self.name}"

    @property
    def dns_name(self) -> str:
        """By which a client that checks host names knows it. Only a node's is without a dot."""
        return self.name if self.role is Role.NODE else f"{self.name}.{self.role}.holdfast"

    @property
    def subject(self) -> x509.Name:
        """The certificate's subject. The serial number tells administrators apart, who have one common name."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, self.common_name),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role.value),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, self.name),
            ]
        )


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whose certificate it is. Raises NotAnIdentity; says nothing about who signed it."""
    subject = certificate.subject

    def only(oid: x509.ObjectIdentifier) -> str:
        values = [attribute.value for attribute in subject.get_attributes_for_oid(oid)]
        if len(values) != 1 or not isinstance(values[0], str):
            raise NotAnIdentity(f"{subject.rfc4514_string()!r} names no holdfast identity")
        return values[0]

    try:
        identity = Identity(only(NameOID.SERIAL_NUMBER), Role(only(NameOID.ORGANIZATIONAL_UNIT_NAME)))
    except ValueError as error:
        raise NotAnIdentity(f"{subject.rfc4514_string()!r} names no holdfast identity: {error}") from None
    if only(NameOID.COMMON_NAME) != identity.common_name:
        raise NotAnIdentity(f"{subject.rfc4514_string()!r} contradicts itself")
    return identity
