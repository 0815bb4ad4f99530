"""What stays by rule, on the owner and on targets, and what is brought."""

from datetime import UTC, timedelta

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.kept import ASKED_FOR, Rules, kept, worth_bringing
from holdfast.coordinator.planning.leftovers import needs, plan_cleanup
from holdfast.coordinator.planning.protection import plan_target
from holdfast.coordinator.planning.steps import SendDisk
from holdfast.coordinator.planning.superseded import superseded
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, Home, assignment, dataset, holding, there

HOUR = timedelta(hours=1)


def history(*policies: str, every: timedelta = HOUR, home: Home | None = None) -> Home:
    """A point an hour on one disk, each for the policies named (joined by +; empty: for replication alone)."""
    home = home or Home("scsi0")
    for number, names in enumerate(policies):
        home.write("scsi0")
        home.take(at=NOON + number * every, policies=tuple(filter(None, names.split("+"))))
    return home


def points(home: Home) -> list[RecoveryPoint]:
    return home.scan().complete_points(VMID)


def numbers(found: object) -> list[int]:
    return sorted(id.sequence for id in found)  # type: ignore[attr-defined]


def keeps(**policies: str) -> Rules:
    return Rules({name: Keep.parse(text) for name, text in policies.items()})


def test_a_point_stays_while_one_of_its_policies_keeps_it() -> None:
    home = history("a+b", "a", "a+b", "b", "a", "")
    found = kept(points(home), keeps(a="last=2", b="last=1"))
    assert {id.sequence: why for id, why in found.items()} == {3: ("a",), 5: ("a",), 4: ("b",)}


def test_points_of_a_policy_that_was_deleted_stay_and_say_so() -> None:
    found = kept(points(history("gone", "", "gone+a", "a")), keeps(a="last=1"))
    assert {id.sequence: why for id, why in found.items()} == {
        1: ("gone (deleted)",), 3: ("gone (deleted)",), 4: ("a",)
    }  # fmt: skip


def test_no_whole_point_goes_for_what_is_left_of_others() -> None:
    """Its fragments may be dated later than all that follows: the clock was set back."""
    home = history("a", "a", "a")
    fragments = {PointId(1, 2), PointId(1, 3)}
    assert numbers(kept(points(home), keeps(a="last=2"))) == [2, 3]
    whole = {p.id for p in points(home)} - fragments
    assert numbers(kept(points(home), keeps(a="last=2"), whole)) == [1, 2, 3]


def test_what_a_person_asked_for_stays_until_its_deletion_is_asked_for() -> None:
    home = history("a")
    asked = home.take(at=NOON + HOUR, request="r1", policies=("a",))
    assert kept(points(home), keeps(a="last=1"))[asked.id] == (ASKED_FOR, "a")
    rules = Rules({"a": Keep(last=1)}, frozenset({(asked.id, asked.instant)}))
    assert numbers(kept(points(home), rules)) == [1], "and the policy counts without it"
    other = Rules({"a": Keep(last=1)}, frozenset({(asked.id, asked.instant + HOUR)}))
    assert asked.id in kept(points(home), other), "another point of the same number was meant"


def test_the_owner_keeps_what_rules_and_replication_need_and_no_more() -> None:
    home = history("", "a", "a", "", "a", "a", "")
    home.sent("beta", PointId(1, 4))
    cleanup = plan_cleanup(VMID, home.scan(), ["beta"], (), keeps(a="last=3"))
    home.carry_out(cleanup)
    assert numbers(p.id for p in points(home)) == [3, 4, 5, 6, 7]
    assert {h.rpartition("-")[2] for h in cleanup.hold} == {"3", "4", "5", "6", "7"}


def test_the_newest_goes_too_when_a_person_wants_it_and_there_is_no_target() -> None:
    home = history("a", "a")
    last = points(home)[-1]
    rules = Rules({"a": Keep(last=5)}, frozenset({(last.id, last.instant)}))
    assert [d.snapshot for d in plan_cleanup(VMID, home.scan(), [], (), rules).destroy] == [last.members[0].full_name]
    assert plan_cleanup(VMID, home.scan(), ["beta"], (), rules).destroy == (), "a target needs it"
    assert needs(points(home), {}, ["beta"], (), rules)[last.id] == ("the newest",)


def test_while_no_policy_names_a_target_what_it_has_and_gets_next_stays_for_its_return() -> None:
    home = history("", "", "a", "a", "a")
    home.sent("beta", PointId(1, 1))
    assert numbers(needs(points(home), {"beta": PointId(1, 1)}, [])) == [1, 2, 5]
    home.carry_out(plan_cleanup(VMID, home.scan(), [], (), keeps(a="last=1")))
    assert numbers(p.id for p in points(home)) == [1, 2, 5]


def test_what_is_left_of_a_point_stays_by_its_rule_when_another_disk_has_gone() -> None:
    home = Home("scsi0", "scsi1")
    home.write("scsi0", "scsi1")
    first = home.take(at=NOON, policies=("a",))
    home.write("scsi0")
    home.take("scsi0", at=NOON + HOUR, policies=("a",))
    home.destroy("scsi1", first.members[1].guid)
    assert plan_cleanup(VMID, home.scan(), [], (), keeps(a="last=2")).destroy == ()
    goes = plan_cleanup(VMID, home.scan(), [], (), keeps(a="last=1"))
    assert [d.snapshot for d in goes.destroy] == [f"{dataset('scsi0')}@holdfast-1-1"]


def test_of_an_idle_disk_the_snapshot_stays_that_a_kept_point_shares() -> None:
    home = Home("scsi0")
    home.write("scsi0")
    for hour in range(4):
        home.take(at=NOON + hour * HOUR, policies=("a",))
    cleanup = plan_cleanup(VMID, home.scan(), [], (), keeps(a="last=1"))
    assert cleanup.destroy == ()
    assert numbers(cleanup.forget) == [1, 2, 3]


def test_a_target_keeps_by_its_own_rule() -> None:
    home = history("a", "a", "a", "", "a")
    rules = Rules({"a": Keep(last=3)}, every_point=Keep(last=1))
    goes = superseded(assignment(slots=["scsi0"]), home.scan(), points(home)[-1], rules)
    assert numbers(goes.forget) == [1, 4]


def test_a_target_is_not_brought_what_it_would_prune_at_once() -> None:
    home = history("", "a", "a", "a", "a")
    rules = Rules({"a": Keep(last=2)}, every_point=Keep(last=1))
    assert numbers(p.id for p in worth_bringing(points(home), rules)) == [1, 4, 5]
    plan = plan_target(assignment(slots=["scsi0"]), 1, home.scan(), holding(points(home)[0]), rules)
    assert plan.goal is not None
    assert plan.goal.sequence == 4
    [send, _] = plan.steps
    assert isinstance(send, SendDisk)
    assert send.base == "@holdfast-1-1"
    needed = needs(points(home), {"beta": PointId(1, 1)}, ["beta"], (), Rules(at_targets={"beta": rules}))
    assert numbers(needed) == [1, 4, 5], "and what it gets next stays for it"


def test_what_may_have_been_begun_before_a_disk_was_pulled_out_stays_though_it_is_overtaken() -> None:
    """It cannot be finished without the disk, but what came of it is what the target goes on from."""
    home = Home("scsi0", "scsi1")
    home.write("scsi0", "scsi1")
    home.take(at=NOON, policies=("a",))
    for number in range(1, 4):
        home.write("scsi0")
        home.take("scsi0", at=NOON + number * HOUR, policies=("a",))
    rules = Rules({"a": Keep(last=1)}, every_point=Keep(last=1))
    assert numbers(p.id for p in worth_bringing(points(home), rules)) == [4]
    assert numbers(needs(points(home), {}, ["beta"], (), Rules(at_targets={"beta": rules}))) == [1, 4]


def test_what_a_target_has_begun_is_finished_even_if_it_is_not_worth_it_any_more() -> None:
    home = history("", "a", "a", "a", "a")
    begun = there(
        "scsi0", points(home)[0].members[0].guid, resume_token="t", resume_guid=points(home)[2].members[0].guid
    )
    rules = Rules({"a": Keep(last=1)}, every_point=Keep(last=1))
    plan = plan_target(assignment(slots=["scsi0"]), 1, home.scan(), holding(points(home)[0], volumes=[begun]), rules)
    assert plan.goal is not None
    assert plan.goal.sequence == 3


@given(
    taken=st.lists(st.tuples(st.integers(0, 400), st.sets(st.sampled_from("abx"))), max_size=30),
    counts=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_nothing_goes_that_a_rule_keeps_and_nothing_stays_that_none_does(
    taken: list[tuple[int, set[str]]], counts: list[int]
) -> None:
    home = Home("scsi0")
    for hour, names in sorted(taken, key=lambda t: t[0]):
        home.write("scsi0")
        home.take(at=NOON + hour * HOUR, policies=tuple(sorted(names)))
    last, hourly, daily, weekly = counts
    rules = Rules({"a": Keep(last=1 + last, daily=daily), "b": Keep(hourly=1 + hourly, weekly=weekly)}, zone=UTC)
    before = points(home)
    home.carry_out(plan_cleanup(VMID, home.scan(), [], (), rules))
    stays = kept(before, rules).keys() | {p.id for p in before[-1:]}
    assert {p.id for p in points(home)} == stays
    names = {s.name for s in home.volumes[dataset("scsi0")].snapshots}
    assert names == {m.snapshot for p in points(home) for m in p.members}
