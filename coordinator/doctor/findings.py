"""From facts to findings, each with the command that mends it. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.coordinator.doctor.facts import AgentFacts, Facts, MemberFacts

_FIXED = {(3, 4): 38, (3, 5): 23, (3, 6): 5}
"""Series of etcd → the release in which the known bugs of leases were fixed."""
_FSYNC = 0.025
"""Seconds; etcd's advice is a p99 below 10 ms, and its default election timeout wants an order of magnitude more."""
_NEVER_COMPACTED = 20_000
"""Revisions without a compaction, after which nobody compacts."""
_DRIFT = 1.0
_CA_SOON = timedelta(days=365)
_MENDS = {"BrokerUnreachable": "correct mqtt in /etc/holdfast/agent.yaml; or start the broker"}
"""Of a node's condition; of the others, all of its certificate, `holdfast renew`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`reason` is one CamelCase word for machines; `mend` a command, or what to do."""

    reason: str
    subject: str
    message: str
    mend: str


def findings(facts: Facts, now: datetime) -> list[Finding]:
    """Everything that is wrong."""
    found = [finding for member in facts.members for finding in _member(member)]
    found += _cluster(facts, now)
    for node, agent in sorted(facts.agents.items()):
        found += _agent(node, agent, facts.agents)
    return found


def _member(member: MemberFacts) -> Iterator[Finding]:
    at = member.endpoint
    if member.error is not None:
        yield Finding("MemberDown", at, f"does not answer: {member.error}", "on that machine: systemctl status etcd")
        return
    if not member.has_leader:
        yield Finding("NoLeader", at, "knows no leader: most of etcd's members are gone or cut off", _status(at))
    if wanted := _fixed_in(member.version):
        message = f"runs etcd {member.version}, whose leases can end early or late; fixed in {wanted}"
        yield Finding("OldEtcd", at, message, f"install etcd {wanted} or newer, one member after the other")
    for alarm in member.alarms:
        yield Finding("Alarm", at, f"has raised an alarm: {alarm}", "etcdctl defrag, then etcdctl alarm disarm")
    if member.metrics is None:
        yield Finding("NoMetrics", at, "its metrics cannot be read: quota and disk are unknown", f"curl {at}/metrics")
        return
    yield from _measured(at, member.metrics)


def _measured(at: str, metrics: Mapping[str, float]) -> Iterator[Finding]:
    quota = metrics.get("etcd_server_quota_backend_bytes", 0.0)
    size = metrics.get("etcd_mvcc_db_total_size_in_bytes", 0.0)
    if quota and size > 0.8 * quota:
        message = f"its database has {size / 2**20:.0f} of {quota / 2**20:.0f} MiB; full, it refuses all writes"
        yield Finding("QuotaNear", at, message, "etcdctl defrag; or raise ETCD_QUOTA_BACKEND_BYTES")
    compacted = metrics.get("etcd_debugging_mvcc_compact_revision")
    revision = metrics.get("etcd_debugging_mvcc_current_revision", 0.0)
    if compacted is not None and compacted <= 0 and revision > _NEVER_COMPACTED:
        message = f"has never been compacted in {revision:.0f} revisions: its database grows until the quota stops it"
        yield Finding("NoCompaction", at, message, "set ETCD_AUTO_COMPACTION_RETENTION=1h and restart that member")
    fsync = metrics.get("fsync_p99")
    if fsync is not None and fsync > _FSYNC:
        message = f"its disk takes {fsync * 1000:.0f} ms to sync (p99): above {_FSYNC * 1000:.0f} ms leases suffer"
        yield Finding("SlowDisk", at, message, "move ETCD_DATA_DIR to a disk that the guests do not load")


def _fixed_in(version: str) -> str | None:
    """The release to install; None where this one is fine, or is none that we know."""
    read = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if not read:
        return None
    major, minor, patch = map(int, read.groups())
    fixed = _FIXED.get((major, minor))
    if fixed is not None:
        return f"{major}.{minor}.{fixed}" if patch < fixed else None
    return "3.4.38" if (major, minor) < min(_FIXED) else None


def _cluster(facts: Facts, now: datetime) -> Iterator[Finding]:
    if len(facts.members) < 3:
        message = f"{len(facts.members)} configured; with fewer than three, losing one stops every decision"
        yield Finding("FewMembers", "etcd", message, "etcdctl member add; then name all members in endpoints")
    if not facts.leader:
        message = "no coordinator leads: nothing is decided"
        yield Finding("NoCoordinator", "cluster", message, "systemctl start holdfast-coordinator")
    if not facts.tls:
        message = "is spoken to without certificates: whoever reaches it decides everything"
        yield Finding("NoTls", "etcd", message, "holdfast init NAME --address IP")
    if facts.authority_until is not None and facts.authority_until - now < _CA_SOON:
        message = f"ends on {facts.authority_until:%Y-%m-%d}, and every certificate with it"
        yield Finding(
            "AuthorityExpires", "authority", message, "holdfast init makes a new one; join every machine again"
        )
    for condition in facts.own_conditions:
        yield Finding(condition.reason, "this command", condition.message, "holdfast renew")
    for role, what in sorted((facts.wrong_roles or {}).items()):
        yield Finding("WrongRights", f"role {role}", what, "on the first machine: holdfast init NAME --address IP")


def _agent(node: str, agent: AgentFacts, agents: Mapping[str, AgentFacts]) -> Iterator[Finding]:
    if agent.error is not None:
        yield Finding("AgentDown", node, agent.error, f"on {node}: systemctl status holdfast-agent")
        return
    if abs(agent.clock_ahead) > _DRIFT:
        message = f"its clock is {abs(agent.clock_ahead):.1f} s {'ahead' if agent.clock_ahead > 0 else 'behind'}"
        yield Finding("ClockDrift", node, message, f"on {node}: chronyc tracking; chronyc makestep")
    for condition in agent.conditions:
        mend = _MENDS.get(condition.reason, "holdfast renew")
        yield Finding(condition.reason, node, condition.message, f"on {node}: {mend}")
    if agent.unreachable is None:
        message = "did not say in time which other nodes it reaches: the ways from it are unknown"
        yield Finding("ReachUnknown", node, message, "holdfast doctor, again; then its log")
        return
    for other, why in sorted(agent.unreachable.items()):
        message = f"{why}{_way_back(node, agents.get(other))}"
        yield Finding("Unreachable", f"{node} to {other}", message, f"open TCP 7420 from {node} to {other}")


def _way_back(node: str, other: AgentFacts | None) -> str:
    """One way alone is a firewall's or a certificate's doing, both are the link's."""
    if other is None or other.error is not None or other.unreachable is None:
        return "; whether the way back works is not known"
    return "; nor does the way back work" if node in other.unreachable else "; the way back works"


def _status(endpoint: str) -> str:
    return f"etcdctl --endpoints {endpoint} endpoint status"
