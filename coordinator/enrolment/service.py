"""The authority's service: signs for who brings a token, and renews for who brings a certificate. HTTPS, TLS 1.3.

It runs where the authority's key is. What it signs is decided by the token or by the certificate that is renewed; of
a request only the public key counts.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from holdfast.coordinator.enrolment.messages import LARGEST, Certificates, Invitation, Join, Renew, Roles
from holdfast.coordinator.enrolment.token import BadToken, Invited, TokenFiles
from holdfast.coordinator.identity.authority import certificate_pem
from holdfast.coordinator.identity.authority_files import AuthorityFiles
from holdfast.coordinator.identity.identity import Identity, Role
from holdfast.coordinator.identity.revocation import Revocations
from holdfast.coordinator.identity.signing_request import requested_key
from holdfast.coordinator.identity.verify import Untrusted, check_peer
from pydantic import BaseModel, ValidationError

log = structlog.get_logger()

_RENEWABLE = frozenset(Role) - {Role.ADMIN, Role.AUTHORITY}

B = TypeVar("B", bound=BaseModel)


class Service:
    """HTTP handlers over one authority's folder, whose files are synced: they are read and written off the loop."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._files = AuthorityFiles(folder)
        self._tokens = TokenFiles(folder)
        self._now = now

    async def serve(self, address: str, port: int, certificate: Path, key: Path, ready: Callable[[], None]) -> None:
        """Until cancelled. OSError if the port is taken or a file cannot be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL  # who joins has none yet
        context.load_verify_locations(self._files.folder / "ca.crt")
        context.load_cert_chain(certificate, key)
        application = web.Application(client_max_size=LARGEST)
        application.add_routes(
            [
                web.get("/v1/ca", self._authority),
                web.post("/v1/roles", self._roles),
                web.post("/v1/join", self._join),
                web.post("/v1/renew", self._renew),
            ]
        )
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port, ssl_context=context).start()
            ready()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _authority(self, _: web.Request) -> web.Response:
        return web.Response(
            body=await asyncio.to_thread(lambda: self._files.certificate), content_type="application/x-pem-file"
        )

    async def _roles(self, request: web.Request) -> web.Response:
        asked = await _body(request, Roles)
        invited = await self._invited(request, asked.secret, self._tokens.look)
        return _json(Invitation(name=invited.name, roles=invited.roles))

    async def _join(self, request: web.Request) -> web.Response:
        asked = await _body(request, Join)
        invited = await self._invited(request, asked.secret, self._tokens.look)
        if set(asked.requests) != set(invited.roles):
            raise web.HTTPBadRequest(text=f"the token is for {', '.join(invited.roles)}, no more and no less")
        keys = {role: _key(pem) for role, pem in asked.requests.items()}
        await self._invited(request, asked.secret, self._tokens.take)
        signed = {
            role: await self._issue(Identity(invited.name, role), key, invited.addresses) for role, key in keys.items()
        }
        log.info("joined", name=invited.name, roles=[*signed], peer=request.remote)
        return await self._answer(signed, invited.cluster, invited.endpoints)

    async def _renew(self, request: web.Request) -> web.Response:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        shown = tls.getpeercert(binary_form=True) if tls else None
        if shown is None:
            raise web.HTTPForbidden(
                text="renewing needs the certificate that is to be renewed; join anew: holdfast join"
            )
        certificate = x509.load_der_x509_certificate(shown)
        revoked = await asyncio.to_thread(self._revocations)
        try:
            identity = check_peer(certificate, revoked, _RENEWABLE)
        except Untrusted as error:
            log.warning("not renewed", peer=request.remote, reason=error.reason, error=str(error))
            raise web.HTTPForbidden(text=str(error)) from None
        asked = await _body(request, Renew)
        addresses = _addresses(certificate, identity)
        made = await self._issue(identity, _key(asked.request), addresses)
        log.info("renewed", name=identity.name, role=identity.role, peer=request.remote)
        return await self._answer({identity.role: made}, "", ())

    def _revocations(self) -> Revocations:
        return Revocations.read(self._files.revocation_list, self._files.load().certificate)

    async def _issue(
        self, identity: Identity, key: ec.EllipticCurvePublicKey, addresses: tuple[str, ...]
    ) -> x509.Certificate:
        return await asyncio.to_thread(self._files.issue, identity, key, self._now(), addresses=addresses)

    async def _invited(self, request: web.Request, secret: str, use: Callable[[str, datetime], Invited]) -> Invited:
        try:
            return await asyncio.to_thread(use, secret, self._now())
        except BadToken as error:
            log.warning("a token was refused", peer=request.remote, error=str(error))
            raise web.HTTPForbidden(text=str(error)) from None

    async def _answer(
        self, signed: dict[Role, x509.Certificate], cluster: str, endpoints: tuple[str, ...]
    ) -> web.Response:
        texts = {role: certificate_pem(made).decode() for role, made in signed.items()}
        revoked = (await asyncio.to_thread(lambda: self._files.revocation_list)).decode()
        return _json(Certificates(certificates=texts, revoked=revoked, cluster=cluster, endpoints=endpoints))


def _addresses(certificate: x509.Certificate, identity: Identity) -> tuple[str, ...]:
    """Those of the certificate that is renewed, without the name that each gets by itself."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    found += [name for name in names.get_values_for_type(x509.DNSName) if name != identity.dns_name]
    return tuple(found)


def _key(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        return requested_key(pem)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"a signing request cannot be used: {error}") from None


async def _body(request: web.Request, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError:
        # not what it says: the text may hold a secret
        raise web.HTTPBadRequest(text="the request cannot be read; is one of the two a newer holdfast?") from None


def _json(message: BaseModel) -> web.Response:
    return web.Response(text=message.model_dump_json(), content_type="application/json")
