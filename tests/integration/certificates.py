"""Identities in files for tests, signed by an authority of their own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from holdfast.coordinator.identity.authority import Authority, certificate_pem, key_pem, new_key
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Identity, Role


class Certificates:
    """Makes what `Credentials` reads."""

    def __init__(self, folder: Path, cluster: str = "default") -> None:
        self.folder = folder
        self.authority = Authority.create(cluster, datetime.now(UTC) - timedelta(days=1000))
        self.ca = folder / "ca.crt"
        write(self.ca, certificate_pem(self.authority.certificate))

    def issue(self, name: str, role: Role = Role.NODE, *, ago: timedelta = timedelta(), **more: object) -> Credentials:
        """An identity that was issued some time ago (negative: will be)."""
        key = new_key()
        now = datetime.now(UTC) - ago
        made = self.authority.issue(Identity(name, role), key.public_key(), now, **more)  # type: ignore[arg-type]
        base = self.folder / f"{name}-{role}"
        write(base.with_suffix(".crt"), certificate_pem(made))
        write(base.with_suffix(".key"), key_pem(key), private=True)
        return Credentials(self.ca, base.with_suffix(".crt"), base.with_suffix(".key"))

    def revocation_list(self, *revoked: Credentials, number: int = 1) -> bytes:
        """A list, as PEM."""
        serials = [each.certificate.serial_number for each in revoked]
        return self.authority.revocation_list(serials, number, datetime.now(UTC)).public_bytes(Encoding.PEM)
