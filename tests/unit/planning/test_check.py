from collections.abc import Mapping

import pytest
from holdfast.coordinator.planning.check import Change, lay_over, refusals
from holdfast.coordinator.planning.desired import Desired, Records, parse
from hypothesis import given
from hypothesis import strategies as st
from orjson import dumps

ZFS = {"type": "zfspool", "properties": {"pool": "tank"}}
POLICY = {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": "60s"}
GUEST = {"type": "qemu", "node": "alpha", "disks": {"scsi0": {"volume": "local-zfs:v"}}}
PRESENT: dict[str, object] = {
    "nodes/alpha": {"address": "10.0.0.1"},
    "nodes/beta": {"address": "10.0.0.2"},
    "storage/local-zfs": ZFS,
    "storage/nfs": {"type": "nfs", "shared": True},
    "storage/only-alpha": {**ZFS, "nodes": ["alpha"]},
    "guests/101": GUEST,
}


def desired(records: Mapping[str, object]) -> Desired:
    made = Records()
    for revision, (path, record) in enumerate(records.items()):
        made.put(path, dumps(record), revision)
    return made.desired()


def change(path: str, record: object) -> Change:
    folder, _, name = path.partition("/")
    return Change(folder, name, parse(folder, name, dumps(record)))


def refused(changes: Mapping[str, object], present: Mapping[str, object] | None = None) -> dict[str, dict[str, str]]:
    found = refusals(desired(PRESENT if present is None else present), [change(p, r) for p, r in changes.items()], {})
    return {f"{folder}/{name}": {c.reason: c.message for c in why} for (folder, name), why in found.items()}


def policy(**fields: object) -> dict[str, object]:
    return {**POLICY, **fields}


def to(node: str, **storages: str) -> list[dict[str, object]]:
    return [{"node": node, "storages": {k.replace("_", "-"): v for k, v in storages.items()}}]


NOBODY = {"tag": ["nobody"]}


@pytest.mark.parametrize(
    ("record", "reason", "says"),
    [
        (policy(targets=to("gamma")), "UnknownNode", "gamma, which does not exist (known: alpha, beta)"),
        (policy(targets=to("gamma"), selector=NOBODY), "UnknownNode", "gamma, which does not exist"),
        (policy(targets=to("alpha")), "TargetIsOwner", "replicates guest 101 to alpha, where it runs"),
        (policy(targets=to("beta", local_zfs="absent")), "TargetLacksStorage", "which has no such storage"),
        (policy(targets=to("beta", local_zfs="absent"), selector=NOBODY), "TargetLacksStorage", "no such storage"),
        (policy(targets=to("beta", local_zfs="only-alpha"), selector=NOBODY), "TargetLacksStorage", "only-alpha"),
        (policy(targets=to("beta", local_zfs="nfs"), selector=NOBODY), "TargetStorageType", "of type nfs"),
        (policy(targets=to("beta", nfs="nfs"), selector=NOBODY), "UnreplicableStorage", "shared"),
        (policy(targets=to("beta", local_zfs="nfs")), "TargetStorageType", "of type nfs"),
        (policy(targets=to("beta", absent="local-zfs"), selector=NOBODY), "UnknownStorage", "absent"),
        (policy(selector={"storage": ["absent"]}), "UnknownStorage", "selects guests on storage absent"),
    ],
)
def test_a_policy_is_refused_for_what_it_names(record: dict[str, object], reason: str, says: str) -> None:
    found = refused({"policies/p": record})
    assert says in found["policies/p"][reason]


def test_a_policy_that_selects_a_guest_on_storage_that_cannot_be_replicated_is_refused() -> None:
    on_nfs = {**GUEST, "disks": {"scsi0": {"volume": "nfs:v"}}}
    found = refused({"policies/p": POLICY}, {**PRESENT, "guests/102": on_nfs})
    assert "Disk scsi0 of guest 102 is on storage nfs" in found["policies/p"]["UnreplicableStorage"]


def test_a_second_policy_for_a_target_is_refused_and_names_the_first() -> None:
    found = refused({"policies/q": POLICY}, {**PRESENT, "policies/p": POLICY})
    assert "Policies p and q both replicate guest 101 to beta" in found["policies/q"]["DuplicateTarget"]


def test_of_two_new_policies_for_one_target_one_is_written() -> None:
    assert list(refused({"policies/p": POLICY, "policies/q": POLICY})) == ["policies/q"]


@pytest.mark.parametrize("path", ["guests/102", "placements/101"])
def test_a_guest_on_a_node_that_does_not_exist_is_refused(path: str) -> None:
    record = {"node": "gamma", **({"type": "lxc"} if path.startswith("guests") else {})}
    assert "gamma, which does not exist" in refused({path: record})[path]["UnknownNode"]


def test_records_that_rest_on_each_other_are_accepted_together_whatever_their_order() -> None:
    changes = dict(reversed(PRESENT.items()))
    assert refused({"policies/p": policy(targets=to("beta")), **changes}, {}) == {}


def test_one_bad_document_among_many_is_refused_alone() -> None:
    good = {f"policies/p{n}": policy(selector={"vmid": [200 + n]}) for n in range(20)}
    assert list(refused({**good, "policies/bad": policy(targets=to("gamma"))})) == ["policies/bad"]


def test_what_rests_on_a_refused_document_is_refused_too() -> None:
    lost = {**GUEST, "node": "gamma", "disks": {"scsi0": {"volume": "local-zfs:w"}}}
    assert list(refused({"guests/102": lost, "policies/p": policy(selector={"vmid": [102]})})) == ["guests/102"]


def test_what_was_broken_before_does_not_keep_anybody_from_writing() -> None:
    broken = {**PRESENT, "policies/forced": policy(targets=to("gamma"))}
    assert refused({"nodes/delta": {"address": "10.0.0.4"}, "guests/101": {**GUEST, "name": "web"}}, broken) == {}


def test_a_correction_is_accepted() -> None:
    broken = {**PRESENT, "policies/forced": policy(targets=to("gamma"))}
    assert refused({"policies/forced": POLICY}, broken) == {}


def test_a_storage_that_would_break_a_policy_is_refused() -> None:
    found = refused({"storage/local-zfs": {**ZFS, "nodes": ["alpha"]}}, {**PRESENT, "policies/p": POLICY})
    assert "TargetLacksStorage" in found["storage/local-zfs"]


def test_a_guest_that_nobody_protects_is_no_mistake() -> None:
    assert refused({"guests/102": {**GUEST, "disks": {}}}) == {}


PATHS = {
    "nodes/beta": {"address": "10.0.0.2"},
    "storage/local-zfs": ZFS,
    "guests/101": GUEST,
    "guests/102": {**GUEST, "node": "beta", "disks": {"scsi0": {"volume": "local-zfs:w"}}},
    "policies/p": POLICY,
    "policies/q": policy(targets=to("gamma")),
    "policies/r": policy(selector={"vmid": [102]}, targets=to("alpha")),
}


@given(present=st.sets(st.sampled_from(sorted(PATHS))), changed=st.permutations(sorted(PATHS)))
def test_what_is_accepted_can_be_applied_again_without_a_complaint(present: set[str], changed: list[str]) -> None:
    before = desired({"nodes/alpha": {"address": "a"}, **{path: PATHS[path] for path in present}})
    changes = [change(path, PATHS[path]) for path in changed]
    bad = refusals(before, changes, {})
    accepted = [c for c in changes if (c.folder, c.name) not in bad]
    assert refusals(before, accepted, {}) == {}
    assert refusals(lay_over(before, accepted), accepted, {}) == {}
