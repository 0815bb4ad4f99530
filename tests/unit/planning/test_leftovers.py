import itertools
from dataclasses import replace

import pytest
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Cleanup, cleaned, needs, plan_cleanup
from holdfast.coordinator.planning.observed import Bookmark
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.planning.made import VMID, Home, dataset


def points(home: Home) -> list[RecoveryPoint]:
    return home.scan().complete_points(VMID)


def history(count: int, *slots: str) -> Home:
    """Every disk written to before each of so many points."""
    home = Home(*slots)
    for _ in range(count):
        home.write(*(slots or ("scsi0", "scsi1")))
        home.take()
    return home


@pytest.mark.parametrize(
    ("sent", "targets", "needed"),
    [
        ({}, [], [5]),
        ({}, ["beta"], [1, 5]),
        ({"beta": 5}, ["beta"], [5]),
        ({"beta": 4}, ["beta"], [4, 5]),
        ({"beta": 2}, ["beta"], [2, 3, 5]),
        ({"beta": 1, "gamma": 3}, ["beta", "gamma"], [1, 2, 3, 4, 5]),
        ({"beta": 5, "gamma": 2}, ["beta"], [5]),
        ({"beta": 9}, ["beta"], [5]),
    ],
)
def test_the_newest_point_and_each_targets_last_and_next_are_needed(
    sent: dict[str, int], targets: list[str], needed: list[int]
) -> None:
    found = needs(points(history(5, "scsi0")), {t: PointId(1, n) for t, n in sent.items()}, targets)
    assert [p.sequence for p in found] == needed


def test_of_points_with_a_disk_that_has_gone_the_next_is_needed_and_so_is_the_next_without_it() -> None:
    """The one may have been begun before the disk went, the other is what is brought now."""
    home = history(3)
    for _ in range(3):
        home.write("scsi0")
        home.take("scsi0")
    found = needs(points(home), {"beta": PointId(1, 1)}, ["beta"])
    assert [p.sequence for p in found] == [1, 2, 4, 6]


def test_what_no_target_needs_is_destroyed_by_guid_and_its_record_forgotten() -> None:
    home = history(4, "scsi0")
    home.sent("beta", PointId(1, 3))
    home.carry_out(Cleanup(VMID, hold=tuple(m.full_name for p in points(home) for m in p.members)))
    cleanup = plan_cleanup(VMID, home.scan(), ["beta"])
    old = {(f"{dataset('scsi0')}@holdfast-1-{n}", points(home)[n - 1].members[0].guid) for n in (1, 2)}
    assert {(d.snapshot, d.guid) for d in cleanup.destroy} == old
    assert set(cleanup.release) == {name for name, _ in old}, "a held snapshot cannot be destroyed"
    assert cleanup.forget == (PointId(1, 1), PointId(1, 2))


def test_needed_snapshots_are_held() -> None:
    cleanup = plan_cleanup(VMID, history(1).scan(), ["beta"])
    assert set(cleanup.hold) == {f"{dataset(slot)}@holdfast-1-1" for slot in ("scsi0", "scsi1")}


def test_an_idle_disks_snapshot_stays_while_a_needed_point_shares_it() -> None:
    home = Home("scsi0", "scsi1")
    for _ in range(4):
        home.write("scsi0")
        home.take()
    home.sent("beta", PointId(1, 4))
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    assert [s.name for s in home.volumes[dataset("scsi1")].snapshots] == ["holdfast-1-1"]
    assert [s.name for s in home.volumes[dataset("scsi0")].snapshots] == ["holdfast-1-4"]


def test_a_snapshot_with_our_name_but_another_guid_is_left_alone() -> None:
    home = history(2, "scsi0")
    volume = home.volumes[dataset("scsi0")]
    impostor = replace(volume.snapshots[0], guid=0xBAD)
    home.change("scsi0", snapshots=(impostor, *volume.snapshots[1:]))
    home.sent("beta", PointId(1, 2))
    cleanup = plan_cleanup(VMID, home.scan(), ["beta"])
    assert cleanup.destroy == ()


def test_a_snapshot_of_ours_that_was_renamed_is_somebodys_and_left_alone() -> None:
    home = history(2, "scsi0")
    volume = home.volumes[dataset("scsi0")]
    home.change("scsi0", snapshots=(replace(volume.snapshots[0], name="keep_this"), *volume.snapshots[1:]))
    home.sent("beta", PointId(1, 2))
    assert plan_cleanup(VMID, home.scan(), ["beta"]).destroy == ()


def test_a_record_that_was_never_complete_is_forgotten_once_a_later_point_is() -> None:
    home = history(1)
    home.destroy("scsi0", points(home)[0].members[0].guid)
    assert not plan_cleanup(VMID, home.scan(), ["beta"]), "there is no later one yet: nothing goes"
    home.write("scsi0", "scsi1")
    home.take()
    cleanup = plan_cleanup(VMID, home.scan(), ["beta"])
    assert cleanup.forget == (PointId(1, 1),)
    assert [d.snapshot for d in cleanup.destroy] == [f"{dataset('scsi1')}@holdfast-1-1"]


def test_a_bookmark_stays_for_a_target_that_no_policy_names_any_more() -> None:
    home = history(1, "scsi0")
    home.sent("gone", PointId(1, 1))
    for _ in range(3):
        home.write("scsi0")
        home.take()
    home.sent("beta", PointId(1, 4))
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    assert [b.name for b in home.volumes[dataset("scsi0")].bookmarks] == ["holdfast-1-1", "holdfast-1-4"]
    assert [s.name for s in home.volumes[dataset("scsi0")].snapshots] == ["holdfast-1-4"]


def test_a_bookmark_of_somebody_elses_is_left_alone() -> None:
    home = history(2, "scsi0")
    home.change("scsi0", bookmarks=(Bookmark("zrepl_cursor", 0xABC001, 1),))
    home.sent("beta", PointId(1, 2))
    assert plan_cleanup(VMID, home.scan(), ["beta"]).drop_bookmarks == ()


def test_definitions_go_with_the_last_point_that_has_them() -> None:
    home = Home("scsi0")
    for digest in ("old", "old", "new"):
        home.write("scsi0")
        home.take(definition=digest)
    home.sent("beta", PointId(1, 2))
    assert plan_cleanup(VMID, home.scan(), ["beta"]).definitions == ()
    home.sent("beta", PointId(1, 3))
    assert plan_cleanup(VMID, home.scan(), ["beta"]).definitions == (("old", "text"),)


def test_a_disk_that_has_gone_leaves_but_a_bookmark_behind_once_no_target_needs_it() -> None:
    home = history(1)
    home.sent("beta", PointId(1, 1))
    for _ in range(2):
        home.write("scsi0")
        home.take("scsi0")
        home.sent("beta", points(home)[-1].id)
        home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    gone = home.volumes[dataset("scsi1")]
    assert gone.snapshots == ()
    assert [b.name for b in gone.bookmarks] == ["holdfast-1-1"], "the target may have its replica, and it may come back"


def pulled_out() -> Home:
    """Of three points, each committed by beta, only the first has scsi1."""
    home = history(1)
    home.sent("beta", PointId(1, 1))
    for _ in range(2):
        home.write("scsi0")
        home.take("scsi0")
        home.sent("beta", points(home)[-1].id)
        home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    return home


def test_a_disk_that_comes_back_has_its_bookmark_until_its_target_has_committed_it_again() -> None:
    home = pulled_out()
    home.write("scsi1")
    home.take()
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    assert [b.name for b in home.volumes[dataset("scsi1")].bookmarks] == ["holdfast-1-1"]
    home.sent("beta", PointId(1, 4))
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    assert [b.name for b in home.volumes[dataset("scsi1")].bookmarks] == ["holdfast-1-4"]


def test_one_target_has_a_returned_disk_again_and_the_bookmark_for_the_other_stays() -> None:
    home = pulled_out()
    home.sent("gamma", PointId(1, 3))
    home.write("scsi1")
    home.take()
    home.sent("beta", PointId(1, 4))
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta", "gamma"]))
    assert [b.name for b in home.volumes[dataset("scsi1")].bookmarks] == ["holdfast-1-1", "holdfast-1-4"]


def test_what_a_target_may_have_received_of_a_disk_before_it_was_pulled_out_is_bookmarked_too() -> None:
    home = history(2)
    home.sent("beta", PointId(1, 1))
    home.write("scsi0")
    home.take("scsi0")
    home.sent("beta", PointId(1, 3))
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    assert [b.name for b in home.volumes[dataset("scsi1")].bookmarks] == ["holdfast-1-1", "holdfast-1-2"]


def test_another_guests_marks_are_not_looked_at() -> None:
    assert not plan_cleanup(102, history(3).scan(), [])


SLOTS = ("scsi0", "scsi1", "fast0")
TARGETS = ("beta", "gamma", "delta")
EVENTS = st.one_of(
    st.tuples(st.just("take"), st.sets(st.sampled_from(SLOTS)), st.sampled_from([SLOTS, SLOTS[:2], SLOTS[::2]])),
    st.tuples(st.just("sent"), st.sampled_from(TARGETS), st.just(())),
    st.tuples(st.just("clean"), st.sets(st.sampled_from(TARGETS)), st.just(())),
    st.tuples(st.just("foreign"), st.sampled_from(SLOTS), st.just(())),
)


class Story:
    """An owner with three targets, of which each may fall behind, vanish and come back."""

    def __init__(self) -> None:
        self.home = Home(*SLOTS)
        self.sent: dict[str, PointId] = {}
        self.there: dict[tuple[str, str], int] = {}
        """(target, dataset) → the GUID of what it has committed last."""
        self.taken: list[set[str]] = []
        """The datasets of each point."""
        self.foreign: set[int] = set()

    def happen(self, kind: str, what: str | set[str], slots: tuple[str, ...]) -> None:
        if kind == "take":
            self.home.write(*(s for s in SLOTS if s in what))
            self.taken.append({m.dataset for m in self.home.take(*slots).members})
        elif kind == "foreign":
            assert isinstance(what, str)
            name = f"holdfast-9-{len(self.foreign) + 1}" if len(self.foreign) % 2 else f"auto{len(self.foreign)}"
            self.foreign.add(self.home.snapshot(what, name).guid)
        elif kind == "sent":
            assert isinstance(what, str)
            self.commit_next(what)
        else:
            self.clean(what)

    def commit_next(self, target: str) -> None:
        last = self.sent.get(target)
        following = next((p for p in points(self.home) if last is None or p.id > last), None)
        if following is not None:
            self.sent[target] = following.id
            self.home.sent(target, following.id)
            self.there |= {(target, m.dataset): m.guid for m in following.members}

    def clean(self, targets: str | set[str]) -> None:
        scan = self.home.scan()
        before = points(self.home)
        cleanup = plan_cleanup(VMID, scan, set(targets))
        needed = {before[-1].id} if before else set()
        for target in targets or self.sent:
            last = self.sent.get(target)
            ahead = [p.id for p in before if last is None or p.id > last]
            needed |= {last, *ahead[:1]} if last is not None else set(ahead[:1])
        self._harmless(cleanup, [p for p in before if p.id in needed])
        self.home.carry_out(cleanup)
        again = plan_cleanup(VMID, self.home.scan(), set(targets))
        assert not again, f"carried out, and there is more to do: {again}"
        assert not plan_cleanup(VMID, cleaned(scan, cleanup), set(targets)), "what is amended shows what was done"
        self._bounded(targets)

    def _harmless(self, cleanup: Cleanup, needed: list[RecoveryPoint]) -> None:
        doomed = {d.guid for d in cleanup.destroy}
        recorded = {m.guid for a in self.home.anchors.values() for p in a.points for m in p.members}
        assert doomed <= recorded
        assert not doomed & self.foreign
        for point in needed:
            assert not doomed & {m.guid for m in point.members}, f"{point.id} is needed"
            assert point.id not in cleanup.forget
        assert not set(cleanup.forget) & set(self.sent.values())

    def _bounded(self, targets: str | set[str]) -> None:
        sets = {frozenset(m.disk for m in p.members) for a in self.home.anchors.values() for p in a.points}
        kept = 1 + (1 + max(2, len(sets))) * len(targets or self.sent)  # the last, and the next of each set of disks
        for slot in SLOTS:
            volume = self.home.volumes[dataset(slot)]
            ours = [s for s in volume.snapshots if s.guid not in self.foreign]
            assert len(ours) <= kept
            assert len(volume.bookmarks) <= len(TARGETS) * (1 + self._pulled(volume.dataset))
        assert all(len(a.points) <= kept + len(TARGETS) for a in self.home.anchors.values())
        for (target, name), guid in self.there.items():
            bookmarks = {b.guid for b in self.home.volumes[name].bookmarks}
            assert guid in bookmarks, f"the reserve base of {target} has gone"

    def _pulled(self, name: str) -> int:
        """How often the disk was left out after it had been in."""
        return sum(name in before and name not in after for before, after in itertools.pairwise(self.taken))


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_over_any_history_cleaning_up_takes_nothing_that_is_needed_and_leaves_no_heap(
    events: list[tuple[str, str | set[str], tuple[str, ...]]],
) -> None:
    story = Story()
    for event in events:
        story.happen(*event)
    story.clean(set(TARGETS))


def test_a_point_that_was_begun_stays_though_disks_of_it_and_of_the_one_before_have_gone() -> None:
    home = Home("scsi0", "scsi1", "scsi2")
    for slots in (("scsi0", "scsi1", "scsi2"), ("scsi0", "scsi1"), ("scsi0",), ("scsi0",)):
        home.write("scsi0")
        home.take(*slots)
    doomed = {d.snapshot for d in plan_cleanup(VMID, home.scan(), ["beta"]).destroy}
    assert not {f"{dataset('scsi0')}@holdfast-1-{n}" for n in (1, 2, 3)} & doomed


def test_a_disk_that_was_pulled_out_leaves_bookmarks_of_what_a_target_may_have_not_of_all_that_rules_keep() -> None:
    home = history(4)
    home.sent("beta", PointId(1, 3))
    home.write("scsi0")
    home.take("scsi0")
    home.sent("beta", PointId(1, 5))
    names = [b.name for b in home.volumes[dataset("scsi1")].bookmarks]
    assert names == ["holdfast-1-3", "holdfast-1-4"]
