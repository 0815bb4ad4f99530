"""What brings a target up to a point."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.planning.kept import Rules
from holdfast.coordinator.planning.leftovers import plan_cleanup
from holdfast.coordinator.planning.observed import Bookmark
from holdfast.coordinator.planning.protection import (
    Inventory,
    TargetPlan,
    TargetVolume,
    plan_target,
)
from holdfast.coordinator.planning.steps import AbortPartial, Commit, SendDisk, SetAside
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, Home, assignment, disk_map, holding, there

UTC = ZoneInfo("UTC")
EMPTY = Inventory(0, (), {})


def to_beta(home: Home, inventory: Inventory, slots: tuple[str, ...] = ("scsi0", "scsi1")) -> TargetPlan:
    return plan_target(assignment(slots=slots), 1, home.scan(), inventory)


def sends(plan: TargetPlan) -> dict[str, tuple[str, str | None]]:
    return {s.disk.disk: (s.to, s.base) for s in plan.steps if isinstance(s, SendDisk)}


def test_an_empty_target_gets_all_disks_in_full_and_then_the_commit() -> None:
    home = Home()
    point = home.take()
    plan = to_beta(home, EMPTY)
    assert sends(plan) == {"scsi0": ("holdfast-1-1", None), "scsi1": ("holdfast-1-1", None)}
    assert plan.steps[-1] == Commit(VMID, "beta", point.id, 1)


def test_a_target_that_has_all_there_is_gets_nothing() -> None:
    home = Home()
    assert to_beta(home, holding(home.take())) == TargetPlan(None, ())


def test_only_disks_that_were_written_to_are_sent_and_from_the_last_common_snapshot() -> None:
    home = Home()
    first = home.take()
    home.write("scsi1")
    home.take()
    plan = to_beta(home, holding(first))
    assert sends(plan) == {"scsi1": ("holdfast-1-2", "@holdfast-1-1")}
    assert isinstance(plan.steps[-1], Commit)


def test_a_point_of_idle_disks_is_only_committed() -> None:
    home = Home()
    first = home.take()
    second = home.take()
    assert to_beta(home, holding(first)).steps == (Commit(VMID, "beta", second.id, 1),)


def test_a_first_stream_that_a_power_cut_left_without_its_mark_is_known_by_what_it_was_bringing() -> None:
    home = Home()
    guid = home.take().members[0].guid
    unmarked = there("scsi0", ours=False, resume_token="1-token", resume_guid=guid)
    plan = to_beta(home, Inventory(1, (), {unmarked.dataset: unmarked}))
    assert [type(s) for s in plan.disks[0]] == [AbortPartial, SendDisk]
    assert sends(plan)["scsi0"] == ("holdfast-1-1", None)


@pytest.mark.parametrize("foreign", [{"resume_guid": 0xDEAD}, {"snapshot": 0xDEAD}])
def test_what_somebody_else_is_receiving_under_the_name_is_left_alone(foreign: dict[str, int]) -> None:
    home = Home()
    guid = foreign.get("resume_guid", home.take().members[0].guid)
    guids = [foreign["snapshot"]] if "snapshot" in foreign else []
    theirs = there("scsi0", *guids, ours=False, resume_token="1-token", resume_guid=guid)
    home.take()
    assert refusal(home, Inventory(0, (), {theirs.dataset: theirs})) == "TargetOccupied"


def test_the_oldest_point_ahead_is_the_goal() -> None:
    home = Home()
    first = home.take()
    home.write("scsi0", "scsi1")
    second = home.take()
    home.write("scsi0")
    home.take()
    assert to_beta(home, holding(first)).goal == second


@pytest.mark.parametrize(
    ("written", "arrived", "goal"),
    [
        (("scsi0", "scsi1"), (), 1),
        (("scsi0", "scsi1"), ("scsi0",), 0),
        (("scsi1",), ("scsi0",), 1),
        (("scsi1",), ("scsi0", "scsi1"), 0),
    ],
    ids=["nothing arrived", "a disk of the first", "an idle disk, of both", "all of the first"],
)
def test_a_point_that_rules_pass_over_is_brought_if_some_disks_of_it_alone_have_arrived(
    written: tuple[str, ...], arrived: tuple[str, ...], goal: int
) -> None:
    home = Home()
    points = [home.take(policies=("often",))]
    home.write(*written)
    points.append(home.take(policies=("often",), at=NOON + timedelta(seconds=10)))
    guids = {m.disk: m.guid for m in points[0].members}
    volumes = [there(slot, guids[slot]) for slot in arrived]
    rules = Rules({"often": Keep(last=1)})
    plan = plan_target(assignment(), 1, home.scan(), holding(volumes=volumes), rules)
    assert plan.goal == points[goal]


def test_a_later_epoch_is_ahead_of_a_higher_number() -> None:
    home = Home()
    for _ in range(3):
        home.write("scsi0")
        last = home.take(epoch=1)
    home.write("scsi0")
    first_of_next = home.take(epoch=2)
    assert to_beta(home, holding(last)).goal == first_of_next


def test_a_point_that_is_incomplete_here_is_passed_over() -> None:
    home = Home()
    broken = home.take()
    home.write("scsi0", "scsi1")
    whole = home.take()
    home.destroy("scsi0", broken.members[0].guid)
    assert to_beta(home, EMPTY).goal == whole


def partial(home: Home, guid: int, *guids: int) -> tuple[TargetVolume, ...]:
    """scsi0 half received; scsi1 as it should be."""
    last = home.volumes[disk_map("scsi1").dataset].snapshots[-1]
    return (there("scsi0", *guids, resume_token="1-token", resume_guid=guid), there("scsi1", last.guid))


def test_a_stream_that_was_cut_goes_on_where_it_was_cut() -> None:
    home = Home()
    point = home.take()
    guid = point.members[0].guid
    [send, commit] = to_beta(home, Inventory(1, (), {v.dataset: v for v in partial(home, guid)})).steps
    assert isinstance(send, SendDisk)
    assert (send.to_guid, send.resume_token, send.base) == (guid, "1-token", None)
    assert isinstance(commit, Commit)


@pytest.mark.parametrize("kept_as", ["snapshot", "nothing"])
def test_a_cut_stream_whose_base_has_gone_from_the_owner_is_not_resumed_for_ever(kept_as: str) -> None:
    home = Home()
    first = home.take()
    home.write("scsi0")
    second = home.take()
    base, guid = first.members[0].guid, second.members[0].guid
    if kept_as == "nothing":
        home.destroy("scsi0", base)
    cut = there("scsi0", base, resume_token="1-token", resume_guid=guid, resume_base=base)
    steps = to_beta(home, holding(first, volumes=[cut])).steps
    resumed = [s for s in steps if isinstance(s, SendDisk) and s.resume_token]
    assert len(resumed) == (1 if kept_as == "snapshot" else 0)
    if not resumed:
        assert [type(s) for s in steps[:3]] == [AbortPartial, SetAside, SendDisk]


def test_what_was_half_received_of_a_snapshot_that_has_gone_is_dropped_and_the_rest_stays_incremental() -> None:
    home = Home()
    first = home.take()
    home.write("scsi0")
    home.take()
    base = first.members[0].guid
    plan = to_beta(home, holding(first, volumes=partial(home, 0xDEAD, base)))
    assert isinstance(plan.steps[0], AbortPartial)
    assert sends(plan) == {"scsi0": ("holdfast-1-2", "@holdfast-1-1")}


def test_a_half_received_first_stream_of_a_snapshot_that_has_gone_is_dropped_and_sent_in_full() -> None:
    home = Home()
    home.take()
    plan = to_beta(home, Inventory(1, (), {v.dataset: v for v in partial(home, 0xDEAD)}))
    assert [type(s) for s in plan.steps] == [AbortPartial, SendDisk, Commit]
    assert sends(plan) == {"scsi0": ("holdfast-1-1", None)}


def test_where_the_common_snapshot_has_gone_its_bookmark_is_the_base() -> None:
    home = Home()
    first = home.take()
    home.sent("beta", first.id)
    home.write("scsi0")
    home.take()
    home.destroy("scsi0", first.members[0].guid)
    assert sends(to_beta(home, holding(first))) == {"scsi0": ("holdfast-1-2", "#holdfast-1-1")}


def test_a_base_is_known_by_its_guid_never_by_its_name() -> None:
    home = Home()
    first = home.take()
    home.write("scsi0")
    home.take()
    home.change(
        "scsi0",
        snapshots=home.volumes[disk_map("scsi0").dataset].snapshots[1:],
        bookmarks=(Bookmark("holdfast-1-1", 0xBAD, 1),),
    )
    plan = to_beta(home, holding(first))
    assert [type(s) for s in plan.steps] == [SetAside, SendDisk, Commit]


def test_a_replica_without_a_common_snapshot_is_set_aside_and_sent_in_full() -> None:
    home = Home()
    point = home.take()
    strange = there("scsi0", 0xDEAD)
    plan = to_beta(
        home, Inventory(1, (), {strange.dataset: strange, **holding(point).volumes} | {strange.dataset: strange})
    )
    assert [type(s) for s in plan.steps] == [SetAside, SendDisk, Commit]
    assert sends(plan) == {"scsi0": ("holdfast-1-1", None)}


def refusal(home: Home, inventory: Inventory) -> str:
    plan = to_beta(home, inventory)
    assert plan.steps == (), "nothing is done for a guest of which one disk cannot be brought"
    [condition] = plan.conditions
    assert condition.target == "beta"
    return condition.reason


def test_a_dataset_that_is_not_ours_is_left_alone_and_no_other_disk_is_sent() -> None:
    home = Home()
    home.take()
    foreign = there("scsi0", ours=False)
    assert refusal(home, Inventory(0, (), {foreign.dataset: foreign})) == "TargetOccupied"


@pytest.mark.parametrize("token", [None, "1-token"])
def test_a_replica_that_was_written_to_is_left_alone(token: str | None) -> None:
    home = Home()
    first = home.take()
    home.write("scsi0")
    home.take()
    written = there("scsi0", first.members[0].guid, written=8192, resume_token=token, resume_guid=0xDEAD)
    assert refusal(home, holding(first, volumes=[written])) == "ReplicaModified"


def test_snapshots_of_others_on_top_of_a_replica_are_named_not_destroyed() -> None:
    home = Home()
    first = home.take()
    home.write("scsi0")
    home.take()
    topped = there("scsi0", first.members[0].guid, 0xF00)
    assert refusal(home, holding(first, volumes=[topped])) == "ReplicaHasOtherSnapshots"


def test_a_point_with_a_disk_that_the_guest_has_no_more_is_not_brought() -> None:
    home = Home("scsi0", "scsi1")
    home.take()
    home.write("scsi0")
    without = home.take("scsi0")
    assert to_beta(home, EMPTY, ("scsi0",)).goal == without


def test_a_point_from_before_a_disk_was_added_is_brought_still() -> None:
    home = Home("scsi0")
    before = home.take()
    home.add("scsi1")
    assert to_beta(home, EMPTY, ("scsi0", "scsi1")).goal == before


def test_a_point_that_is_behind_what_the_target_holds_of_a_disk_is_passed_over() -> None:
    """A disk was left out while the target was brought a later point, and is back before that was committed."""
    home = Home("scsi0", "scsi1")
    first = home.take()
    home.write("scsi0")
    home.take()
    home.write("scsi0", "scsi1")
    third = home.take()
    half_way = holding(first, volumes=[there("scsi0", first.members[0].guid, third.members[0].guid)])
    plan = to_beta(home, half_way)
    assert plan.goal == third, "zfs send has no way from a later snapshot to an earlier one"
    assert sends(plan) == {"scsi1": ("holdfast-1-3", "@holdfast-1-1")}


def test_a_disk_that_was_pulled_out_and_put_back_is_gone_on_with_from_its_bookmark() -> None:
    home = Home("scsi0", "scsi1")
    first = home.take()
    home.sent("beta", first.id)
    home.write("scsi0", "scsi1")
    second = home.take("scsi0")
    home.sent("beta", second.id)
    home.carry_out(plan_cleanup(VMID, home.scan(), ["beta"]))
    home.take()
    plan = to_beta(home, holding(first, second))
    assert sends(plan) == {"scsi1": ("holdfast-1-3", "#holdfast-1-1")}


def test_nothing_is_brought_from_a_head_that_was_never_promoted() -> None:
    """The target's replica may be newer: it would be set aside, and the older point sent in full."""
    home = Home("scsi0", "scsi1")
    home.take()
    home.change("scsi1", marks={"replica": f"{VMID}/scsi1"})
    for inventory in (EMPTY, Inventory(1, (), {v.dataset: v for v in [there("scsi0", 1), there("scsi1", 2)]})):
        plan = to_beta(home, inventory)
        assert plan.steps == ()
        assert [(c.reason, c.target) for c in plan.conditions] == [("NotPromoted", "beta")]


def test_an_encrypted_disk_is_sent_raw() -> None:
    home = Home("scsi0")
    home.change("scsi0", encrypted=True)
    home.take()
    [send, _] = to_beta(home, EMPTY).steps
    assert isinstance(send, SendDisk)
    assert send.raw


# --- a guest on two pools


def test_a_point_over_two_pools_is_complete_only_with_the_records_and_snapshots_of_both() -> None:
    home = Home("scsi0", "fast0")
    point = home.take()
    assert home.scan().complete_points(VMID)[0].members == tuple(sorted(point.members, key=lambda m: m.disk))
    for pool in ("tank", "fast"):
        one_record = {key: anchor for key, anchor in home.anchors.items() if key[0] != pool}
        home_without = Home("scsi0", "fast0")
        home_without.volumes, home_without.anchors = home.volumes, one_record
        assert home_without.scan().complete_points(VMID) == []
    home.destroy("fast0", point.members[1].guid)
    assert home.scan().complete_points(VMID) == []


def test_a_guest_on_two_pools_is_brought_as_one_point() -> None:
    home = Home("scsi0", "fast0")
    home.take()
    plan = to_beta(home, EMPTY, ("scsi0", "fast0"))
    assert set(sends(plan)) == {"scsi0", "fast0"}
    assert [type(s) for s in plan.steps].count(Commit) == 1


@given(written=st.lists(st.sets(st.sampled_from(["scsi0", "scsi1", "fast0"])), min_size=1, max_size=6), data=st.data())
def test_whatever_is_cut_a_target_converges_without_a_second_full_stream(
    written: list[set[str]], data: st.DataObject
) -> None:
    """Carries plans out on a target, one step at a time, any of which may be the last before everything starts anew."""
    slots = ("scsi0", "scsi1", "fast0")
    home = Home(*slots)
    points = []
    for slots_written in written:
        home.write(*slots_written)
        points.append(home.take())
    inventory, full = Inventory(1, (), {}), dict.fromkeys(slots, 0)
    for _ in range(100):
        plan = plan_target(assignment(slots=slots), 1, home.scan(), inventory)
        assert plan.conditions == ()
        if plan.goal is None:
            break
        for step in plan.steps[: data.draw(st.integers(1, len(plan.steps)))]:
            if isinstance(step, SendDisk):
                full[step.disk.disk] += step.base is None
                seen = inventory.volumes.get(step.disk.target_dataset)
                if step.base is not None:
                    assert seen is not None
                    base = home.volumes[step.disk.dataset].snapshot(seen.guids[-1])
                    assert base is not None
                    assert step.base == f"@{base.name}"
                guids = (*(seen.guids if seen else ()), step.to_guid)
                volumes = {**inventory.volumes, step.disk.target_dataset: there(step.disk.disk, *guids)}
                inventory = Inventory(1, inventory.points, volumes)
            else:
                assert isinstance(step, Commit)
                here = {guid for v in inventory.volumes.values() for guid in v.guids}
                assert plan.goal.complete(here)
                inventory = Inventory(1, (*inventory.points, plan.goal), inventory.volumes)
    assert inventory.points == tuple(
        p.model_copy(update={"members": tuple(sorted(p.members, key=lambda m: m.disk))}) for p in points
    )
    assert set(full.values()) == {1}
