"""This process's identity for TLS: its certificate and key, whom it trusts, and whom no longer.

TLS 1.3 alone, both sides with certificates. Which names and roles are answered is checked after the handshake, by
`check_peer`, so that the other side can be told in words.
"""

import ssl
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from holdfast.coordinator.identity.identity import Identity, Role, identity_of
from holdfast.coordinator.identity.revocation import Revocations
from holdfast.coordinator.identity.verify import Untrusted, check_peer, expires_soon
from holdfast.coordinator.model.condition import Condition

log = structlog.get_logger()


class Credentials:
    """Reads the files anew when they change, so that a renewed certificate counts at the next connection."""

    def __init__(self, ca: Path, certificate: Path, key: Path) -> None:
        """Raises OSError or ValueError (ssl.SSLError is an OSError) if the files cannot be used."""
        self._files = (ca, certificate, key)
        self.revoked = Revocations()
        self._client, self._server = _context(ssl.PROTOCOL_TLS_CLIENT), _context(ssl.PROTOCOL_TLS_SERVER)
        self._server.num_tickets = 0  # each connection proves itself; a ticket would outlive a revocation
        self._seen = self._stamps()
        self._read()

    def _stamps(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in self._files]
        return [(each.st_mtime_ns, each.st_ino) for each in found]

    def _read(self) -> None:
        ca, certificate, key = self._files
        authority = x509.load_pem_x509_certificate(ca.read_bytes())
        own = x509.load_pem_x509_certificate(certificate.read_bytes())
        identity = identity_of(own)
        # a pair that does not fit fails here, before it reaches a context that is in use
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self._client, self._server):
            context.load_verify_locations(ca)
            context.load_cert_chain(certificate, key)
        self.authority, self.certificate, self.identity = authority, own, identity

    def _refresh(self) -> None:
        try:
            stamps = self._stamps()
            if stamps != self._seen:
                self._read()
                self._seen = stamps
                log.info("the certificate was read anew", until=self.certificate.not_valid_after_utc.isoformat())
        except (OSError, ValueError) as error:  # in the midst of being replaced; the next connection looks again
            log.warning("the certificate cannot be read; the last one is used", error=str(error))

    @property
    def client(self) -> ssl.SSLContext:
        """For connections that this process makes."""
        self._refresh()
        return self._client

    @property
    def server(self) -> ssl.SSLContext:
        """For connections that it accepts; it stays the same one when the certificate is replaced."""
        self._refresh()
        return self._server

    def revoke(self, pem: bytes) -> bool:
        """Take a revocation list; False if it is no newer than the last. Raises BadRevocationList."""
        found = Revocations.read(pem, self.authority)
        if found.number <= self.revoked.number:
            return False
        self.revoked = found
        return True

    def peer(self, der: bytes | None, roles: frozenset[Role]) -> Identity:
        """Who the other side is, from the certificate that TLS has verified. Raises Untrusted."""
        if der is None:
            raise Untrusted("NoCertificate", "it showed no certificate")
        return check_peer(x509.load_der_x509_certificate(der), self.revoked, roles)

    def conditions(self, now: datetime) -> tuple[Condition, ...]:
        """What is wrong with the own certificate, or soon will be."""
        self._refresh()
        until = self.certificate.not_valid_after_utc
        if self.certificate in self.revoked:
            message = f"the certificate of {self.identity} is revoked: the others refuse it. Join again"
            return (Condition(reason="CertificateRevoked", message=message),)
        if not expires_soon(self.certificate, now):
            return ()
        left = (until - now).days
        when = f"expires in {left} days" if left >= 0 else "has expired"
        message = (
            f"the certificate of {self.identity} {when} ({until:%Y-%m-%d}). On {self.identity.name}: holdfast renew"
        )
        return (Condition(reason="CertificateExpires", message=message),)


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # a peer is a name and a role, wherever its address is: see check_peer
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
