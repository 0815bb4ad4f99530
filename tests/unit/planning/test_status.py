from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.report import (
    AgentReport,
    GuestReport,
    PointReport,
    RecordProblem,
    ReplicaReport,
    TargetReport,
)
from holdfast.coordinator.planning.desired import Desired, Records
from holdfast.coordinator.planning.status import GuestStatus, Reports, Seen, State, Status, view
from hypothesis import given
from hypothesis import strategies as st
from orjson import dumps

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RECORDS: dict[str, object] = {
    "nodes/alpha": {"address": "10.0.0.1"},
    "nodes/beta": {"address": "10.0.0.2"},
    "storage/local-zfs": {"type": "zfspool", "properties": {"pool": "tank"}},
    "guests/101": {"type": "qemu", "node": "alpha", "name": "web", "disks": {"scsi0": {"volume": "local-zfs:v"}}},
    "policies/to-beta": {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": "60s"},
}
OWNER = Owner(node="alpha", epoch=2, since=NOW, by="w1")
AGENTS = {n: AgentReport(version="0.1", started=NOW, seen=NOW - timedelta(seconds=20)) for n in ("alpha", "beta")}


def point(age: float, sequence: int = 1, epoch: int = 2) -> PointReport:
    instant = NOW - timedelta(seconds=age)
    return PointReport(
        epoch=epoch, sequence=sequence, instant=instant, consistency=Consistency.ATOMIC, disks=1, size=2**30
    )


def desired(changes: Mapping[str, object] | None = None) -> Desired:
    records = Records()
    for revision, (path, record) in enumerate({**RECORDS, **(changes or {})}.items()):
        if record is not None:
            records.put(path, record if isinstance(record, bytes) else dumps(record), revision)
    return records.desired()


def told(last: PointReport | None, **fields: Any) -> dict[tuple[str, int], GuestReport]:
    targets = (TargetReport(node="beta", policy="to-beta", last=last, unchanged_at=fields.pop("unchanged_at", None)),)
    return {("alpha", 101): GuestReport(**{"epoch": 2, "targets": targets, **fields})}


def status(
    changes: Mapping[str, object] | None = None,
    guests: Mapping[tuple[str, int], GuestReport] | None = None,
    owners: Mapping[int, Owner] | None = None,
    replicas: Mapping[tuple[str, int], ReplicaReport] | None = None,
    agents: Mapping[str, AgentReport] = AGENTS,
    leader: bool = True,
) -> Status:
    reports = Reports(agents, guests or {}, replicas or {})
    return view(Seen(desired(changes), {101: OWNER} if owners is None else owners, reports, NOW, UTC, leader))


def only(shown: Status) -> GuestStatus:
    [guest] = shown.guests
    return guest


def reasons(guest: GuestStatus) -> list[str]:
    return [c.reason for c in guest.conditions]


def test_a_guest_whose_last_point_is_within_the_rpo_is_healthy() -> None:
    guest = only(status(guests=told(point(41))))
    assert (guest.state, guest.targets[0].lag, guest.conditions) == (State.HEALTHY, 41, ())


def test_points_of_a_deleted_snapshot_policy_are_told_with_what_lets_go_of_them() -> None:
    taken = [
        point(60, n).model_copy(update={"policies": names}) for n, names in ((1, ("hourly", "old")), (2, ("old",)))
    ]
    hourly = {"kind": "SnapshotPolicy", "selector": {"all": True}, "schedule": "hourly", "keep": "last=3"}
    guest = only(status({"policies/hourly": hourly}, guests=told(point(41), points=tuple(taken))))
    [said] = guest.conditions
    assert said.reason == "PolicyDeleted"
    assert said.message.startswith("2 points of guest 101 were taken for snapshot policy old, which has been deleted")
    assert "holdfast snapshot delete 101 --policy old" in said.message
    assert guest.state == State.HEALTHY


def test_a_snapshot_policy_that_cannot_be_read_is_not_deleted() -> None:
    taken = (point(60).model_copy(update={"policies": ("hourly",)}),)
    guest = only(status({"policies/hourly": b"{}"}, guests=told(point(41), points=taken)))
    assert "PolicyDeleted" not in reasons(guest)


def test_a_guest_whose_last_point_is_older_than_the_rpo_is_breached() -> None:
    assert only(status(guests=told(point(61)))).state is State.BREACHED


def test_a_replica_of_an_idle_guest_is_as_fresh_as_when_it_was_last_seen_unchanged() -> None:
    guest = only(status(guests=told(point(3600), unchanged_at=NOW - timedelta(seconds=12))))
    assert (guest.state, guest.targets[0].lag) == (State.HEALTHY, 12)


def test_unchanged_at_says_nothing_about_a_point_that_only_the_target_knows() -> None:
    newer = ReplicaReport(points=(point(50, sequence=2),))
    shown = status(guests=told(point(3600), unchanged_at=NOW - timedelta(seconds=55)), replicas={("beta", 101): newer})
    assert only(shown).targets[0].lag == 50


def test_points_are_ordered_by_epoch_and_sequence_whatever_the_clock_said() -> None:
    replica = ReplicaReport(points=(point(5, sequence=9, epoch=1), point(30, sequence=1, epoch=2)))
    assert only(status(replicas={("beta", 101): replica})).targets[0].lag == 30


def test_a_clock_that_runs_behind_gives_no_negative_lag() -> None:
    assert only(status(guests=told(point(-30)))).targets[0].lag == 0


def test_before_the_first_point_a_guest_is_syncing() -> None:
    guest = only(status(guests=told(None)))
    assert (guest.state, guest.targets[0].lag) == (State.SYNCING, None)


def test_a_guest_without_a_report_yet_says_so_and_whose() -> None:
    guest = only(status())
    assert (guest.state, reasons(guest)) == (State.SYNCING, ["NoReport"])


def test_a_report_of_an_earlier_epoch_counts_as_none() -> None:
    assert reasons(only(status(guests=told(point(1), epoch=1)))) == ["NoReport"]


def test_an_agent_that_fell_silent_is_named_and_the_lag_runs_on() -> None:
    silent = {**AGENTS, "alpha": AGENTS["alpha"].model_copy(update={"seen": NOW - timedelta(minutes=10)})}
    guest = only(status(guests=told(point(600)), agents=silent))
    assert (guest.state, reasons(guest)) == (State.BREACHED, ["AgentSilent"])
    assert "last heard of at 2026-03-01T11:50:00" in guest.conditions[0].message


def test_a_guest_that_no_policy_selects_is_unprotected() -> None:
    guest = only(status({"policies/to-beta": None}))
    assert (guest.state, reasons(guest)) == (State.UNPROTECTED, ["Unprotected"])


def test_a_guest_without_an_owner_is_unprotected_and_told_why() -> None:
    said = {
        "unknown": only(status({"guests/101": {"type": "lxc"}}, owners={})),
        "foreign": only(status({"guests/101": {"type": "lxc", "node": "gamma"}}, owners={})),
        "headless": only(status(owners={}, leader=False)),
        "soon": only(status(owners={})),
    }
    assert {g.state for g in said.values()} == {State.UNPROTECTED}
    messages = {k: next(c.message for c in g.conditions if c.reason == "NoOwner") for k, g in said.items()}
    assert "not known where it runs" in messages["unknown"]
    assert "node gamma does not exist" in messages["foreign"]
    assert "no coordinator leads" in messages["headless"]
    assert "has not named one yet" in messages["soon"]


def test_a_target_that_is_wanted_and_refused_breaches_the_guest_however_fresh_the_others_are() -> None:
    policy = {"selector": {"all": True}, "targets": [{"node": "beta"}, {"node": "gamma"}], "rpo": "60s"}
    guest = only(status({"policies/to-beta": policy}, guests=told(point(1))))
    assert (guest.state, reasons(guest)) == (State.BREACHED, ["UnknownNode"])


def test_two_policies_for_one_target_are_reported_and_leave_the_guest_healthy() -> None:
    guest = only(status({"policies/late": RECORDS["policies/to-beta"]}, guests=told(point(1))))
    assert (guest.state, reasons(guest)) == (State.HEALTHY, ["DuplicateTarget"])


def test_a_guest_that_is_only_observed_is_neither_healthy_nor_breached() -> None:
    guest = only(status({"placements/101": {"mode": "observe"}}, guests=told(point(900))))
    assert guest.state is State.OBSERVED


def test_a_schedule_is_missed_when_a_whole_period_was() -> None:
    hourly = {"selector": {"all": True}, "targets": [{"node": "beta"}], "schedule": "hourly"}
    # at noon: the point of 11:00 is in time; one from just before it missed that of 11:00, and has until noon
    ages = {1: State.HEALTHY, 3600: State.HEALTHY, 3601: State.BREACHED, 9000: State.BREACHED}
    for age, state in ages.items():
        assert only(status({"policies/to-beta": hourly}, guests=told(point(age)))).state is state


def test_a_condition_that_only_the_agent_knows_is_shown_with_its_time() -> None:
    condition = Condition(reason="TargetOccupied", target="beta", message="occupied", since=NOW)
    assert only(status(guests=told(point(1), conditions=(condition,)))).conditions == (condition,)


def test_a_reported_condition_that_a_correction_has_ended_is_no_longer_shown() -> None:
    stale = Condition(reason="UnknownNode", target="beta", message="unknown", since=NOW)
    assert only(status(guests=told(point(1), conditions=(stale,)))).conditions == ()


def test_a_condition_that_is_found_here_too_shows_since_when_the_agent_has_it() -> None:
    since = NOW - timedelta(hours=3)
    reported = Condition(reason="UnknownNode", target="gamma", message="older words", since=since)
    policy = {"selector": {"all": True}, "targets": [{"node": "gamma"}], "rpo": "60s"}
    [shown] = only(status({"policies/to-beta": policy}, guests=told(None, conditions=(reported,)))).conditions
    assert shown.since == since
    assert "known: alpha, beta" in shown.message


def test_a_guest_whose_record_cannot_be_read_is_listed_as_unprotected_with_the_reason() -> None:
    shown = status({"guests/101": b'{"type": "qemu", "colour": 1}'})
    guest = only(shown)
    assert (guest.vmid, guest.name, guest.state) == (101, "", State.UNPROTECTED)
    assert "colour: unknown field" in guest.conditions[0].message
    assert shown.problems[0].key == "desired/guests/101"


def keeping(key: str) -> dict[str, AgentReport]:
    kept = RecordProblem(key=key, condition=Condition(reason="BadRecord", message="kept"), in_force="previous version")
    return {**AGENTS, "alpha": AGENTS["alpha"].model_copy(update={"problems": (kept,)})}


def test_a_guest_whose_previous_record_is_in_force_at_its_owner_stays_healthy() -> None:
    shown = status({"guests/101": b"{"}, guests=told(point(5)), agents=keeping("desired/guests/101"))
    assert only(shown).state is State.HEALTHY
    assert reasons(only(shown)) == ["BadRecord"]
    assert shown.problems[0].in_force == "previous version"


def test_a_bad_policy_whose_previous_version_is_in_force_leaves_its_guests_protected() -> None:
    shown = status({"policies/to-beta": b"{"}, guests=told(point(5)), agents=keeping("desired/policies/to-beta"))
    assert only(shown).state is State.HEALTHY
    assert only(shown).conditions == ()


def test_a_record_that_only_an_older_agent_cannot_read_is_shown_with_who_says_so() -> None:
    shown = status(guests=told(point(5)), agents=keeping("desired/nodes/beta"))
    assert "kept (said by alpha, version 0.1)" in shown.problems[0].condition.message


def test_a_policy_that_selects_nobody_and_names_an_unknown_node_is_a_problem() -> None:
    policy = {"selector": {"tag": ["none"]}, "targets": [{"node": "gamma"}], "rpo": "60s"}
    shown = status({"policies/idle": policy}, guests=told(point(5)))
    assert [(p.key, p.condition.reason) for p in shown.problems] == [("desired/policies/idle", "UnknownNode")]
    assert only(shown).state is State.HEALTHY


def test_the_last_line_counts_every_guest_once() -> None:
    shown = status(
        {"guests/102": {"type": "lxc", "node": "alpha"}, "guests/103": b"{"},
        guests=told(point(100)),
    )
    assert str(shown.summary) == "3 guests: 0 healthy, 1 breached, 2 unprotected"
    assert str(status(guests=told(point(5))).summary) == "1 guest: 1 healthy, 0 breached, 0 unprotected"
    assert str(status().summary) == "1 guest: 0 healthy, 0 breached, 0 unprotected, 1 syncing first"


@given(
    present=st.sets(st.sampled_from(sorted(RECORDS))),
    spoilt=st.sets(st.sampled_from(sorted(RECORDS))),
    owned=st.booleans(),
    age=st.none() | st.floats(-1e5, 1e6),
    reporting=st.sets(st.sampled_from(["alpha", "beta"])),
)
def test_whatever_is_missing_or_spoilt_there_is_a_row_for_every_guest_and_a_reason_unless_healthy(
    present: set[str], spoilt: set[str], owned: bool, age: float | None, reporting: set[str]
) -> None:
    changes = {path: None for path in RECORDS if path not in present} | dict.fromkeys(spoilt, b"{")
    shown = status(
        changes,
        guests=told(point(age)) if age is not None else {},
        owners={101: OWNER} if owned else {},
        agents={node: AGENTS[node] for node in reporting},
    )
    assert [g.vmid for g in shown.guests] == ([101] if "guests/101" in present | spoilt else [])
    for guest in shown.guests:
        late = any(t.state is State.BREACHED for t in guest.targets)
        assert guest.conditions or late or guest.state in (State.HEALTHY, State.SYNCING)
        assert not (guest.state is State.HEALTHY and late)
    summary = shown.summary
    assert summary.guests == summary.healthy + summary.breached + summary.unprotected + summary.syncing
