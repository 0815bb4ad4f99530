from datetime import UTC, datetime

import orjson
import pytest
from holdfast.agent.view import View
from holdfast.coordinator.model.guest import Mode
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Meta, Owner

KEYS = Keyspace("test")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
RECORDS: dict[tuple[str, str | int], dict[str, object]] = {
    ("nodes", "alpha"): {"address": "10.0.0.1"},
    ("nodes", "beta"): {"address": "10.0.0.2"},
    ("storage", "local"): {"type": "zfspool", "properties": {"pool": "tank"}},
    ("guests", 101): {"type": "qemu", "node": "alpha", "disks": {"scsi0": {"volume": "local:vm-101-disk-0"}}},
    ("guests", 102): {"type": "qemu", "node": "beta", "disks": {"scsi0": {"volume": "local:vm-102-disk-0"}}},
    ("policies", "all"): {"selector": {"all": True}, "targets": [{"node": "alpha"}, {"node": "beta"}], "rpo": 60},
}


def owner(node: str, epoch: int = 1) -> bytes:
    return Owner(node=node, epoch=epoch, since=NOON, by="c").to_json()


def view(me: str = "alpha") -> View:
    made = View(KEYS, me, {})
    for (folder, name), record in RECORDS.items():
        made.put(KEYS.desired(folder, name), orjson.dumps(record), 1)
    made.put(KEYS.owner(101), owner("alpha"), 1)
    made.put(KEYS.owner(102), owner("beta"), 1)
    return made


def targets(of: View, vmid: int) -> list[str]:
    protection = of.protection(vmid)
    return [a.node for a in protection.assignments] if protection else []


def test_a_node_owns_what_is_given_to_it_and_receives_what_is_assigned_to_it() -> None:
    seen = view("alpha")
    assert list(seen.owned()) == [101]
    assert targets(seen, 101) == ["beta"]
    assert seen.assignment_here(101) is None, "a node takes no replica of its own guest"
    here = seen.assignment_here(102)
    assert here is not None
    assert here.disks[0].target_dataset == "tank/vm-102-disk-0"


def test_a_change_of_owner_moves_the_assignment_with_it() -> None:
    seen = view("alpha")
    seen.put(KEYS.owner(101), owner("beta", 2), 1)
    assert list(seen.owned()) == []
    assert targets(seen, 101) == ["alpha"]
    assert seen.owner(101) == Owner(node="beta", epoch=2, since=NOON, by="c")


def test_a_guest_without_an_owner_is_nobodys_to_work_on() -> None:
    seen = view("alpha")
    seen.delete(KEYS.owner(101))
    assert list(seen.owned()) == []
    assert seen.owner(101) is None


def test_a_guest_that_was_deleted_is_not_owned_though_its_owner_is_still_recorded() -> None:
    seen = view("alpha")
    seen.delete(KEYS.desired("guests", 101))
    assert list(seen.owned()) == []
    assert seen.protection(101) is None


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"null", b"[]", b'{"node":"beta"}', b'{"node":"-x","epoch":0}', b"\xff"]
)
def test_an_owner_or_a_meta_that_cannot_be_read_changes_nothing(garbage: bytes) -> None:
    seen = view("alpha")
    seen.put(KEYS.meta, Meta(cluster_uuid="u", generation=4).to_json(), 1)
    for key in (KEYS.owner(101), KEYS.owners_prefix + "x", KEYS.owners_prefix, KEYS.meta):
        seen.put(key, garbage, 1)
    assert list(seen.owned()) == [101]
    assert seen.generation == 4
    for key in (KEYS.owners_prefix + "x", KEYS.owners_prefix):
        seen.delete(key)
    assert list(seen.owned()) == [101]


@pytest.mark.parametrize("path", ["guests/101", "policies/all", "storage/local", "nodes/beta"])
@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b'{"colour":"red"}', b"\xff"])
def test_a_bad_record_leaves_all_in_force_as_it_was(path: str, garbage: bytes) -> None:
    seen = view("alpha")
    before = seen.protection(101)
    seen.put(KEYS.desired_prefix + path, garbage, 2)
    assert seen.protection(101) == before
    assert [p.key for p in seen.desired.problems] == [f"desired/{path}"]


def test_what_was_in_force_outlasts_a_restart_in_which_etcd_holds_a_record_that_cannot_be_read() -> None:
    again = View(KEYS, "alpha", view("alpha").last_good)
    for (folder, name), record in RECORDS.items():
        bad = name == 101
        again.put(KEYS.desired(folder, name), b"{" if bad else orjson.dumps(record), 1)
    again.put(KEYS.owner(101), owner("alpha"), 1)
    assert list(again.owned()) == [101]
    assert targets(again, 101) == ["beta"]


def test_before_etcd_has_been_read_nothing_is_known() -> None:
    seen = View(KEYS, "alpha", {})
    assert (seen.generation, seen.owner(101), seen.protection(101), seen.owned()) == (None, None, None, {})


def test_whoever_subscribed_is_woken_by_every_key_until_it_unsubscribes() -> None:
    seen = view()
    event, other = seen.subscribe(), seen.subscribe()
    for change in (lambda: seen.put(KEYS.owner(7), b"{", 1), lambda: seen.delete(KEYS.desired("guests", 101))):
        event.clear()
        change()
        assert event.is_set()
    event.clear()
    seen.unsubscribe(event)
    other.clear()
    seen.delete(KEYS.owner(101))
    assert (event.is_set(), other.is_set()) == (False, True)


def test_the_mode_of_a_guest_is_its_placements() -> None:
    seen = view()
    assert seen.desired.mode(101) is Mode.REPLICATE
    seen.put(KEYS.desired("placements", 101), b'{"mode":"observe"}', 3)
    assert seen.desired.mode(101) is Mode.OBSERVE
