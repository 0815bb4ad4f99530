"""What is checked of a peer's certificate besides what TLS checks (its signature, and when it is valid)."""

from datetime import datetime, timedelta

from cryptography import x509
from holdfast.coordinator.identity.identity import Identity, NotAnIdentity, Role, identity_of
from holdfast.coordinator.identity.revocation import Revocations

_SOON = timedelta(days=30)


class Untrusted(Exception):
    """A peer that is not who it should be. `reason` is one CamelCase word; the text is for operators."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_peer(certificate: x509.Certificate, revoked: Revocations, roles: frozenset[Role]) -> Identity:
    """Whose certificate it is, if it counts and is of one of these roles. Raises Untrusted."""
    try:
        identity = identity_of(certificate)
    except NotAnIdentity as error:
        raise Untrusted("ForeignCertificate", f"the certificate {error}. Issue one: holdfast ca issue NODE") from None
    if certificate in revoked:
        raise Untrusted(
            "CertificateRevoked",
            f"the certificate of {identity} (serial {certificate.serial_number:x}) is revoked. "
            f"If {identity.name} is to be trusted again: holdfast ca token {identity.name}, then join there",
        )
    if identity.role not in roles:
        wanted = " or ".join(sorted(roles))
        raise Untrusted("WrongRole", f"the certificate is that of {identity}; here only a {wanted} is answered")
    return identity


def expires_soon(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether it is time to renew: thirty days before the end, or when a third of the certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < min(_SOON, life / 3)
