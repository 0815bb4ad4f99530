"""Tokens: `ADDRESS:PORT/FINGERPRINT/SECRET`. Where to ask, by what to know the authority, and the right to join once.

The authority keeps only the secret's hash: who reads its folder cannot join by it. A token is taken by removing its
file, which succeeds for one caller only.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.model.names import NodeName
from pydantic import AwareDatetime, BaseModel, ConfigDict


class BadToken(ValueError):
    """Not a token, or one that does not count; the message says why."""


@dataclass(frozen=True, slots=True)
class Token:
    """What the operator carries from one machine to the other."""

    address: str
    port: int
    fingerprint: str
    """SHA-256 of the authority's certificate."""
    secret: str

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.fingerprint}/{self.secret}"

    def __repr__(self) -> str:
        return f"Token({self.address}:{self.port})"  # never the secret

    @classmethod
    def read(cls, text: str) -> "Token":
        """Raises BadToken, without showing the secret."""
        where, _, rest = text.strip().partition("/")
        fingerprint, _, secret = rest.partition("/")
        address, _, port = where.rpartition(":")
        if not address or not port.isdecimal() or len(fingerprint) != 64 or not secret:
            raise BadToken(
                "this is no token; it reads ADDRESS:PORT/FINGERPRINT/SECRET, as holdfast ca token printed it"
            )
        return cls(address.strip("[]"), int(port), fingerprint, secret)


class Invited(BaseModel):
    """What a token is good for, as the authority keeps it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: NodeName
    roles: tuple[Role, ...]
    addresses: tuple[str, ...] = ()
    expires: AwareDatetime
    cluster: str
    endpoints: tuple[str, ...]


class TokenFiles:
    """The tokens that were given out and not used yet, in the authority's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tokens"

    def make(self, invited: Invited) -> str:
        """A new secret, of 160 random bits."""
        secret = secrets.token_urlsafe(20)
        write(self._path(secret), invited.model_dump_json().encode(), private=True)
        return secret

    def look(self, secret: str, now: datetime) -> Invited:
        """What it is good for; it stays usable. Raises BadToken."""
        try:
            invited = Invited.model_validate_json(self._path(secret).read_bytes())
        except FileNotFoundError:
            raise BadToken(
                "the token is unknown: it was used already, or is of another cluster. Make a new one"
            ) from None
        if now >= invited.expires:
            self._path(secret).unlink(missing_ok=True)
            raise BadToken(f"the token expired at {invited.expires:%H:%M:%S UTC}. Make a new one: holdfast ca token")
        return invited

    def take(self, secret: str, now: datetime) -> Invited:
        """Use it up. Raises BadToken."""
        invited = self.look(secret, now)
        try:
            self._path(secret).unlink()
        except FileNotFoundError:
            raise BadToken("the token was used at this very moment by somebody else. Find out by whom") from None
        return invited

    def _path(self, secret: str) -> Path:
        return self._folder / f"{hashlib.sha256(secret.encode()).hexdigest()}.json"
