"""The machine's side of joining and renewing. Synchronous: it is all that the command does meanwhile.

The token's secret is sent only over a connection whose other side has proven to be the authority with the token's
fingerprint, in the role `authority`: no node can put itself in between.
"""

import http.client
import ssl
from collections.abc import Mapping
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from holdfast.coordinator.enrolment.messages import LARGEST, Certificates, Invitation, Join, Renew, Roles
from holdfast.coordinator.enrolment.token import Token
from holdfast.coordinator.identity.authority import fingerprint
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.identity.revocation import Revocations
from holdfast.coordinator.identity.signing_request import signing_request
from holdfast.coordinator.identity.tls_words import explain
from holdfast.coordinator.identity.verify import Untrusted, check_peer
from pydantic import BaseModel, ValidationError

TIMEOUT = 15.0

M = TypeVar("M", bound=BaseModel)


class EnrolmentFailed(Exception):
    """Joining or renewing failed or was refused; the message is for operators."""


def authority(token: Token) -> bytes:
    """The authority's certificate, as PEM, if it is the one that the token names. Raises EnrolmentFailed."""
    anybody = _context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE  # nothing secret is said; what is read is checked by its fingerprint
    pem = _exchange(token.address, token.port, anybody, "GET", "/v1/ca", None, None)
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise EnrolmentFailed(f"{token.address}:{token.port} is not the service of an authority") from None
    if fingerprint(found) != token.fingerprint:
        raise EnrolmentFailed(
            f"the authority at {token.address}:{token.port} is not the token's (its fingerprint: {fingerprint(found)})."
            " Somebody may be in between, or the token is an old one"
        )
    return pem


def invitation(token: Token, ca: bytes) -> Invitation:
    """Whom the token is for."""
    return _ask(token.address, token.port, _pinned(ca), "/v1/roles", Roles(secret=token.secret), Invitation)


def join(token: Token, ca: bytes, keys: Mapping[Role, ec.EllipticCurvePrivateKey]) -> Certificates:
    """Use the token up: a certificate for each key."""
    requests = {role: signing_request(key) for role, key in keys.items()}
    body = Join(secret=token.secret, requests=requests)
    return _ask(token.address, token.port, _pinned(ca), "/v1/join", body, Certificates)


def renew(address: str, port: int, credentials: Credentials, key: ec.EllipticCurvePrivateKey) -> Certificates:
    """A new certificate of the same identity, for a new key."""
    body = Renew(request=signing_request(key))
    return _ask(address, port, credentials.client, "/v1/renew", body, Certificates)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _pinned(ca: bytes) -> ssl.SSLContext:
    context = _context()
    context.check_hostname = False  # it is known by its role, see _check
    context.load_verify_locations(cadata=ca.decode())
    return context


def _ask(address: str, port: int, context: ssl.SSLContext, path: str, body: BaseModel, kind: type[M]) -> M:
    answer = _exchange(address, port, context, "POST", path, body.model_dump_json().encode(), Role.AUTHORITY)
    try:
        return kind.model_validate_json(answer)
    except ValidationError:
        raise EnrolmentFailed(f"the answer of {address}:{port} cannot be read; is it another version?") from None


def _exchange(
    address: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None, role: Role | None
) -> bytes:
    """One request; the other side proves `role` before anything is sent."""
    connection = http.client.HTTPSConnection(address, port, timeout=TIMEOUT, context=context)
    where = f"{address}:{port}"
    try:
        connection.connect()
        if role is not None:
            shown = connection.sock.getpeercert(binary_form=True)
            assert isinstance(shown, bytes), "TLS has verified it"
            check_peer(x509.load_der_x509_certificate(shown), Revocations(), frozenset({role}))
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read(LARGEST)
    except Untrusted as error:
        raise EnrolmentFailed(f"{where} is not the authority's service: {error}") from None
    except ssl.SSLError as error:
        raise EnrolmentFailed(f"{where}: {explain(error)[1]}") from None
    except (OSError, http.client.HTTPException) as error:
        raise EnrolmentFailed(
            f"the authority's service at {where} does not answer ({error or type(error).__name__}). "
            "Does holdfast ca serve run there?"
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise EnrolmentFailed(f"{where} refused: {answer.decode(errors='replace').strip()}")
    return answer
