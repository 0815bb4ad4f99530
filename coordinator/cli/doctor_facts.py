"""Asks etcd's members and the agents for the facts."""

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime

import aiohttp
from cryptography import x509
from holdfast.coordinator.cli.agents import Access, ask
from holdfast.coordinator.cli.state import load
from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.doctor import metrics
from holdfast.coordinator.doctor.facts import AgentFacts, Facts, MemberFacts
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.model.answers import Health, Reach
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import MemberStatus

_TIMEOUT = aiohttp.ClientTimeout(total=3.0)


async def collect(store: EtcdStore, settings: EtcdSettings, access: Access, roles: Mapping[str, str] | None) -> Facts:
    """The facts; StoreError where etcd cannot be read at all, OSError where a certificate cannot."""
    state = await load(store, settings.keyspace)
    statuses = await store.status()
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        context = _context(settings)
        read = await asyncio.gather(*(_metrics(session, status.endpoint, context) for status in statuses))
    ca, cert, key = settings.ca, settings.cert, settings.key
    own = Credentials(ca, cert, key) if ca and cert and key else None
    authority = x509.load_pem_x509_certificate(ca.read_bytes()) if ca else None
    return Facts(
        members=tuple(_member(status, found) for status, found in zip(statuses, read, strict=True)),
        agents=await _agents(state.desired.nodes, access),
        leader=state.leader,
        tls=settings.ca is not None,
        authority_until=authority.not_valid_after_utc if authority else None,
        own_conditions=own.conditions(datetime.now(UTC)) if own else (),
        wrong_roles=roles,
    )


def _context(settings: EtcdSettings) -> ssl.SSLContext | None:
    if settings.ca is None:
        return None
    context = ssl.create_default_context(cafile=settings.ca)
    if settings.cert and settings.key:
        context.load_cert_chain(settings.cert, settings.key)
    return context


def _member(status: MemberStatus, found: Mapping[str, float] | None) -> MemberFacts:
    return MemberFacts(
        status.endpoint, status.version, status.has_leader, status.alarms, status.error, None if status.error else found
    )


async def _metrics(
    session: aiohttp.ClientSession, endpoint: str, context: ssl.SSLContext | None
) -> Mapping[str, float] | None:
    url = f"{'https' if context else 'http'}://{endpoint}/metrics"
    try:
        async with session.get(url, ssl=context or False) as response:
            return metrics.read(await response.text()) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


async def _agents(nodes: Mapping[str, Node], access: Access) -> dict[str, AgentFacts]:
    asked = datetime.now(UTC)
    health = await ask(nodes, "/v1/health", Health, access)
    answered = datetime.now(UTC)
    reach = await ask({name: nodes[name] for name in health.given}, "/v1/reach", Reach, access)
    found = {name: AgentFacts(error=why) for name, why in health.silent.items()}
    for name, said in health.given.items():
        # it read its clock between the question and the answer: only what lies outside is drift
        ahead = max((said.now - answered).total_seconds(), min((said.now - asked).total_seconds(), 0.0))
        unreachable = reach.given[name].unreachable if name in reach.given else None
        found[name] = AgentFacts(None, ahead, said.conditions, unreachable)
    return found
