"""The cluster's certificate authority: signs identities, and the list of those that no longer count.

ECDSA on P-256 throughout: what etcd (Go), gRPC and OpenSSL all do fast. Profile: RFC 5280.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from holdfast.coordinator.identity.identity import Identity, Role

CA_LIFE = timedelta(days=3650)
LIFE = timedelta(days=365)
_SKEW = timedelta(hours=1)
"""A new certificate counts from so long ago: the clocks of the nodes may differ."""
_SERVERS = {Role.NODE, Role.MEMBER, Role.AUTHORITY}
_CLIENTS = set(Role) - {Role.AUTHORITY}


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key for any identity."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As it is kept in a file of mode 0600, and nowhere else."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """As it is kept in files."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


class Authority:
    """The authority's certificate and its private key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, cluster: str, now: datetime) -> "Authority":
        """A new one."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"holdfast {cluster} CA")])
        builder = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> "Authority":
        """From PEM. Raises ValueError if they are not an authority's, or do not belong together."""
        read = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, None)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != read.public_key():
            raise ValueError("the authority's key and its certificate do not belong together")
        return cls(read, private)

    @property
    def key_pem(self) -> bytes:
        """For its file."""
        return key_pem(self._key)

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        *,
        addresses: Iterable[str] = (),
        life: timedelta = LIFE,
    ) -> x509.Certificate:
        """Sign an identity. `addresses`: host names and IP addresses at which a server is also known."""
        names: list[x509.GeneralName] = [x509.DNSName(identity.dns_name)]
        names += [_general_name(address) for address in addresses]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if identity.role in _SERVERS else []
        purposes += [ExtendedKeyUsageOID.CLIENT_AUTH] if identity.role in _CLIENTS else []
        builder = (
            x509.CertificateBuilder(self.certificate.subject, identity.subject, public_key, x509.random_serial_number())
            .not_valid_before(max(now - _SKEW, self.certificate.not_valid_before_utc))
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def revocation_list(self, serials: Iterable[int], number: int, now: datetime) -> x509.CertificateRevocationList:
        """Sign the list of what no longer counts; the one with the greater `number` is the newer.

        It does not expire before the authority: that it could not be renewed must not cut all nodes off.
        """
        builder = x509.CertificateRevocationListBuilder(
            self.certificate.subject, now - _SKEW, self.certificate.not_valid_after_utc
        )
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        builder = builder.add_extension(self._key_identifier(), critical=False)
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder(serial, now - _SKEW).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256())

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
