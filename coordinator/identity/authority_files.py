"""The authority on disk: its key, what it has issued, what it has revoked. One process at a time changes it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from holdfast.coordinator.identity.authority import LIFE, Authority, certificate_pem
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Identity, Role, identity_of
from holdfast.coordinator.identity.revocation import Revocations


class AuthorityError(Exception):
    """The authority refused, or cannot be used; the message is for operators."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate as the authority remembers it."""

    identity: Identity
    certificate: x509.Certificate
    revoked: bool


class AuthorityFiles:
    """Below `folder`: ca.crt, ca.key, crl.pem, issued/SERIAL.crt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether there is an authority."""
        return (self.folder / "ca.key").exists()

    def create(self, cluster: str, now: datetime) -> Authority:
        """A new authority. Raises AuthorityError where there is one: two would make two clusters."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            if self.exists:
                raise AuthorityError(
                    f"there is an authority in {self.folder}; a second one would trust none of its nodes"
                )
            made = Authority.create(cluster, now)
            write(self.folder / "ca.crt", certificate_pem(made.certificate))
            write(self.folder / "ca.key", made.key_pem, private=True)
            self._write_list(made, Revocations(), now)
            return made

    def load(self) -> Authority:
        """Read it. Raises AuthorityError."""
        try:
            return Authority.load(self.certificate, (self.folder / "ca.key").read_bytes())
        except FileNotFoundError as error:
            raise AuthorityError(
                f"{error.filename} is not there. It is on the machine where holdfast init ran"
            ) from None
        except (OSError, ValueError) as error:
            raise AuthorityError(f"the authority in {self.folder} cannot be used: {error}") from None

    @property
    def certificate(self) -> bytes:
        """The authority's certificate as PEM. OSError."""
        return (self.folder / "ca.crt").read_bytes()

    @property
    def revocation_list(self) -> bytes:
        """The list as PEM. OSError."""
        return (self.folder / "crl.pem").read_bytes()

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        *,
        addresses: tuple[str, ...] = (),
        life: timedelta = LIFE,
    ) -> x509.Certificate:
        """Sign, and remember it first: what nobody remembers nobody can revoke."""
        made = self.load().issue(identity, public_key, now, addresses=addresses, life=life)
        write(self.folder / "issued" / f"{made.serial_number:x}.crt", certificate_pem(made))
        return made

    def issued(self) -> list[Issued]:
        """Every certificate that was issued, the newest of each identity first."""
        revoked = self._revocations(self.load())
        found = [
            x509.load_pem_x509_certificate(path.read_bytes()) for path in sorted((self.folder / "issued").glob("*.crt"))
        ]
        found.sort(key=lambda c: c.not_valid_before_utc, reverse=True)
        listed = [Issued(identity_of(each), each, each in revoked) for each in found]
        return sorted(listed, key=lambda each: (each.identity.name, each.identity.role))

    def revoke(self, name: str, roles: frozenset[Role], now: datetime) -> list[Issued]:
        """Revoke every certificate of a name in these roles; what was revoked now. AuthorityError if none ever was."""
        authority = self.load()
        with self._alone():
            known = [e for e in self.issued() if e.identity.name == name and e.identity.role in roles]
            if not known:
                raise AuthorityError(f"no certificate was issued for {name}; holdfast ca list shows all")
            now_revoked = [each for each in known if not each.revoked]
            before = self._revocations(authority)
            serials = before.serials | {each.certificate.serial_number for each in now_revoked}
            self._write_list(authority, Revocations(serials, before.number), now)
            return now_revoked

    def _revocations(self, authority: Authority) -> Revocations:
        return Revocations.read(self.revocation_list, authority.certificate)

    def _write_list(self, authority: Authority, revocations: Revocations, now: datetime) -> None:
        made = authority.revocation_list(revocations.serials, revocations.number + 1, now)
        write(self.folder / "crl.pem", made.public_bytes(serialization.Encoding.PEM))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
