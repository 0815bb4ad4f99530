from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from holdfast.coordinator.doctor import metrics
from holdfast.coordinator.doctor.facts import AgentFacts, Facts, MemberFacts
from holdfast.coordinator.doctor.findings import findings
from holdfast.coordinator.model.condition import Condition

NOW = datetime(2026, 5, 1, tzinfo=UTC)
GOOD = {
    "etcd_server_quota_backend_bytes": 2.0**31,
    "etcd_mvcc_db_total_size_in_bytes": 2.0**20,
    "etcd_debugging_mvcc_compact_revision": 90_000.0,
    "etcd_debugging_mvcc_current_revision": 100_000.0,
    "fsync_p99": 0.004,
}
MEMBER = MemberFacts("10.0.0.1:2379", "3.5.30", metrics=GOOD)
FACTS = Facts(
    members=(MEMBER,) * 3,
    agents={"pve1": AgentFacts(), "pve2": AgentFacts()},
    leader=True,
    tls=True,
    authority_until=NOW + timedelta(days=3000),
    wrong_roles={},
)


def reasons(facts: Facts) -> list[str]:
    found = findings(facts, NOW)
    assert all(each.mend and each.message and each.subject for each in found)
    return [each.reason for each in found]


def with_member(**changes: object) -> Facts:
    return replace(FACTS, members=(replace(MEMBER, **changes), MEMBER, MEMBER))  # type: ignore[arg-type]


def with_agent(**changes: object) -> Facts:
    return replace(FACTS, agents={"pve1": AgentFacts(**changes), "pve2": AgentFacts()})  # type: ignore[arg-type]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert findings(FACTS, NOW) == []


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("3.3.25", True),
        ("3.4.23", True),
        ("3.4.37", True),
        ("3.4.38", False),
        ("3.5.22", True),
        ("3.5.23", False),
        ("3.6.4", True),
        ("3.6.5", False),
        ("3.7.0", False),
        ("4.0.0", False),
        ("3.6.0-rc.1", True),
        ("", False),
    ],
)
def test_an_etcd_with_the_known_bugs_of_leases_is_named(version: str, old: bool) -> None:
    assert reasons(with_member(version=version)) == (["OldEtcd"] if old else [])


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (with_member(error="connection refused"), "MemberDown"),
        (with_member(has_leader=False), "NoLeader"),
        (with_member(alarms=("NOSPACE",)), "Alarm"),
        (with_member(metrics=None), "NoMetrics"),
        (with_member(metrics=GOOD | {"etcd_mvcc_db_total_size_in_bytes": 1.8e9}), "QuotaNear"),
        (with_member(metrics=GOOD | {"etcd_debugging_mvcc_compact_revision": -1.0}), "NoCompaction"),
        (with_member(metrics=GOOD | {"fsync_p99": 0.064}), "SlowDisk"),
        (replace(FACTS, members=(MEMBER, MEMBER)), "FewMembers"),
        (replace(FACTS, leader=False), "NoCoordinator"),
        (replace(FACTS, tls=False), "NoTls"),
        (replace(FACTS, authority_until=NOW + timedelta(days=300)), "AuthorityExpires"),
        (replace(FACTS, wrong_roles={"operator": "does not exist"}), "WrongRights"),
        (
            replace(FACTS, own_conditions=(Condition(reason="CertificateExpires", message="soon"),)),
            "CertificateExpires",
        ),
        (with_agent(error="no answer"), "AgentDown"),
        (with_agent(clock_ahead=2.0), "ClockDrift"),
        (with_agent(clock_ahead=-2.0), "ClockDrift"),
        (with_agent(conditions=(Condition(reason="CertificateRevoked", message="x"),)), "CertificateRevoked"),
        (with_agent(unreachable={"pve2": "no answer"}), "Unreachable"),
        (with_agent(unreachable=None), "ReachUnknown"),
    ],
)
def test_each_fault_is_one_finding(facts: Facts, reason: str) -> None:
    assert reasons(facts) == [reason]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (AgentFacts(), "the way back works"),
        (AgentFacts(unreachable={"pve1": "refused"}), "nor does the way back work"),
        (AgentFacts(unreachable=None), "whether the way back works is not known"),
        (AgentFacts(error="silent"), "whether the way back works is not known"),
    ],
)
def test_a_way_that_does_not_work_is_told_with_the_way_back(other: AgentFacts, says: str) -> None:
    facts = replace(FACTS, agents={"pve1": AgentFacts(unreachable={"pve2": "no answer"}), "pve2": other})
    (found,) = [each for each in findings(facts, NOW) if each.subject == "pve1 to pve2"]
    assert found.message == f"no answer; {says}"


def test_a_condition_of_a_node_is_mended_by_what_mends_it() -> None:
    conditions = tuple(Condition(reason=r, message="x") for r in ("CertificateExpires", "BrokerUnreachable"))
    mends = [each.mend for each in findings(with_agent(conditions=conditions), NOW)]
    assert mends[0] == "on pve1: holdfast renew"
    assert "mqtt in /etc/holdfast/agent.yaml" in mends[1]


def test_what_one_may_not_look_at_is_no_finding() -> None:
    assert reasons(replace(FACTS, wrong_roles=None, authority_until=None)) == []


def test_a_young_etcd_need_not_have_been_compacted() -> None:
    young = {"etcd_debugging_mvcc_compact_revision": -1.0, "etcd_debugging_mvcc_current_revision": 500.0}
    assert reasons(with_member(metrics=GOOD | young)) == []


def test_unreachable_tells_the_direction() -> None:
    (found,) = findings(with_agent(unreachable={"pve2": "refused"}), NOW)
    assert found.subject == "pve1 to pve2"


def histogram(*counts: tuple[str, int]) -> str:
    return "".join(f'etcd_disk_wal_fsync_duration_seconds_bucket{{le="{le}"}} {n}\n' for le, n in counts)


@pytest.mark.parametrize(
    ("counts", "p99"),
    [
        ([("0.001", 99), ("0.002", 100), ("+Inf", 100)], 0.001),
        ([("0.001", 98), ("0.002", 98), ("0.004", 100), ("+Inf", 100)], 0.004),
        ([("0.001", 0), ("+Inf", 10)], float("inf")),
    ],
)
def test_the_99th_of_100_syncs_is_read_from_the_histogram(counts: list[tuple[str, int]], p99: float) -> None:
    text = "# HELP x\netcd_server_has_leader 1\n" + histogram(*counts)
    assert metrics.read(text) == {"etcd_server_has_leader": 1.0, "fsync_p99": p99}


def test_without_a_sync_there_is_no_figure() -> None:
    assert metrics.read(histogram(("0.001", 0), ("+Inf", 0))) == {}
