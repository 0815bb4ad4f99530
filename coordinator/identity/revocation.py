"""Which certificates no longer count: the authority's signed list, of which only a newer one replaces another."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec


class BadRevocationList(ValueError):
    """Not a revocation list of this authority; the message says why."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """The serial numbers on a list, and the list's own number. Without a list: none, number 0."""

    serials: frozenset[int] = frozenset()
    number: int = 0

    @classmethod
    def read(cls, pem: bytes, authority: x509.Certificate) -> "Revocations":
        """Read a list and check who signed it. Raises BadRevocationList."""
        key = authority.public_key()
        try:
            listed = x509.load_pem_x509_crl(pem)
            number = listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (ValueError, x509.ExtensionNotFound) as error:
            raise BadRevocationList(f"this is no revocation list: {error}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not listed.is_signature_valid(key):
            raise BadRevocationList("the revocation list was not signed by this cluster's authority")
        return cls(frozenset(entry.serial_number for entry in listed), number)

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return certificate.serial_number in self.serials
