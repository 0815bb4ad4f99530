from collections.abc import Mapping

import pytest
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.planning.assignment import REASONS, Protection, assign, selects
from holdfast.coordinator.planning.desired import Desired, Records
from hypothesis import given
from hypothesis import strategies as st
from orjson import dumps

ZFS = {"type": "zfspool", "properties": {"pool": "tank/guests"}}
WEB = {
    "type": "qemu",
    "node": "alpha",
    "name": "web",
    "tags": ["gold"],
    "pool": "shop",
    "disks": {"scsi0": {"volume": "local-zfs:vm-101-disk-0", "size": 2**30}},
}
TO_BETA = {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": "60s"}


def world(**records: Mapping[str, object]) -> Desired:
    """Two nodes, one storage, guest 101 on alpha; `policies__x={…}` adds a record, None takes one away."""
    present: dict[str, object] = {
        "nodes/alpha": {"address": "10.0.0.1"},
        "nodes/beta": {"address": "10.0.0.2"},
        "storage/local-zfs": ZFS,
        "guests/101": WEB,
    }
    present |= {path.replace("__", "/").replace("_", "-"): record for path, record in records.items()}
    made = Records()
    for revision, (path, record) in enumerate(present.items()):
        if record is not None:
            made.put(path, dumps(record), revision)
    assert made.desired().problems == ()
    return made.desired()


def protection(desired: Desired, vmid: int = 101) -> Protection:
    return assign(desired, {})[vmid]


def reasons(desired: Desired) -> dict[str, str]:
    return {c.reason: c.message for c in protection(desired).conditions}


def test_a_guest_goes_to_the_policys_target_under_the_same_names() -> None:
    [assignment] = protection(world(policies__p=TO_BETA)).assignments
    assert (assignment.node, assignment.policy, assignment.rpo) == ("beta", "p", 60)
    [disk] = assignment.disks
    assert (disk.dataset, disk.target_dataset) == ("tank/guests/vm-101-disk-0", "tank/guests/vm-101-disk-0")


def test_a_linked_clone_lies_beside_its_base() -> None:
    disks = {"scsi0": {"volume": "local-zfs:base-9-disk-0/vm-101-disk-0"}}
    [assignment] = protection(world(policies__p=TO_BETA, guests__101={**WEB, "disks": disks})).assignments
    assert assignment.disks[0].dataset == assignment.disks[0].target_dataset == "tank/guests/vm-101-disk-0"
    assert assignment.disks[0].target_volume == "local-zfs:base-9-disk-0/vm-101-disk-0"


def test_a_mapped_storage_decides_the_dataset_on_the_target() -> None:
    policy = {**TO_BETA, "targets": [{"node": "beta", "storages": {"local-zfs": "big"}}]}
    big = {"type": "zfspool", "nodes": ["beta"], "properties": {"pool": "big/replicas"}}
    [assignment] = protection(world(policies__p=policy, storage__big=big)).assignments
    assert assignment.disks[0].target_volume == "big:vm-101-disk-0"
    assert assignment.disks[0].target_dataset == "big/replicas/vm-101-disk-0"


def test_a_guest_that_no_policy_selects_is_unprotected() -> None:
    assert list(reasons(world())) == ["Unprotected"]
    assert not protection(world()).protected


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({"vmid": [101]}, True),
        ({"vmid": [102]}, False),
        ({"tag": ["silver", "gold"]}, True),
        ({"tag": ["silver"]}, False),
        ({"pool": ["shop"]}, True),
        ({"pool": ["lab"]}, False),
        ({"storage": ["local-zfs"]}, True),
        ({"storage": ["other"]}, False),
        ({"all": True}, True),
    ],
)
def test_a_selector_selects_by_vmid_tag_pool_storage_or_all(selector: dict[str, object], chosen: bool) -> None:
    assert selects(Selector.model_validate(selector), 101, Guest.model_validate(WEB)) is chosen


def test_a_target_that_does_not_exist_is_named_with_those_that_do() -> None:
    found = reasons(world(policies__p={**TO_BETA, "targets": [{"node": "gamma"}]}))
    assert "node gamma, which does not exist (known: alpha, beta)" in found["UnknownNode"]


def test_a_guest_is_not_replicated_to_where_it_runs() -> None:
    found = reasons(world(policies__p={**TO_BETA, "targets": [{"node": "alpha"}]}))
    assert "replicates guest 101 to alpha, where it runs" in found["TargetIsOwner"]


def test_that_the_owner_is_among_several_targets_is_no_fault() -> None:
    desired = world(policies__p={**TO_BETA, "targets": [{"node": "alpha"}, {"node": "beta"}]})
    assert reasons(desired) == {}
    assert [a.node for a in protection(desired).assignments] == ["beta"]


def test_where_a_guest_is_placed_counts_before_where_it_was_last_seen() -> None:
    assert "TargetIsOwner" in reasons(world(policies__p=TO_BETA, placements__101={"node": "beta"}))


def test_a_storage_that_the_target_lacks_is_named() -> None:
    only_alpha = {**ZFS, "nodes": ["alpha"]}
    found = reasons(world(policies__p=TO_BETA, storage__local_zfs=only_alpha))
    assert "storage local-zfs on beta, which has no such storage" in found["TargetLacksStorage"]


def test_a_storage_of_another_type_on_the_target_is_refused() -> None:
    policy = {**TO_BETA, "targets": [{"node": "beta", "storages": {"local-zfs": "dir"}}]}
    found = reasons(world(policies__p=policy, storage__dir={"type": "dir", "properties": {"path": "/srv"}}))
    assert "is of type dir. Map it to a storage of type zfspool" in found["TargetStorageType"]


@pytest.mark.parametrize(
    ("storage", "what"), [({"type": "lvmthin"}, "of type lvmthin"), ({**ZFS, "shared": True}, "shared")]
)
def test_a_guest_with_a_disk_that_cannot_be_replicated_is_not_replicated_in_part(
    storage: dict[str, object], what: str
) -> None:
    disks = {"scsi0": {"volume": "local-zfs:vm-101-disk-0"}, "scsi1": {"volume": "thin:vm-101-disk-1"}}
    desired = world(policies__p=TO_BETA, storage__thin=storage, guests__101={**WEB, "disks": disks})
    assert f"Disk scsi1 of guest 101 is on storage thin, which is {what}" in reasons(desired)["UnreplicableStorage"]
    assert not protection(desired).protected


def test_a_disk_that_is_left_out_knowingly_does_not_block_the_others() -> None:
    disks = {"scsi0": {"volume": "local-zfs:v0"}, "ide2": {"volume": "iso:debian.iso", "replicate": False}}
    desired = world(policies__p=TO_BETA, guests__101={**WEB, "disks": disks})
    assert reasons(desired) == {}
    assert [d.disk for d in protection(desired).assignments[0].disks] == ["scsi0"]


def test_a_storage_that_is_not_defined_is_named() -> None:
    desired = world(policies__p=TO_BETA, storage__local_zfs=None)
    assert "storage local-zfs, which is not defined" in reasons(desired)["UnknownStorage"]


def test_a_storage_that_the_owners_node_does_not_have_is_named() -> None:
    desired = world(policies__p=TO_BETA, storage__local_zfs={**ZFS, "nodes": ["beta"]})
    assert "which node alpha does not have" in reasons(desired)["StorageNotOnNode"]


def test_a_guest_without_disks_has_nothing_to_replicate() -> None:
    assert list(reasons(world(policies__p=TO_BETA, guests__101={**WEB, "disks": {}}))) == ["NoDisks"]


def test_of_two_policies_for_one_target_the_older_is_in_force() -> None:
    desired = world(policies__z=TO_BETA, policies__a={**TO_BETA, "rpo": "5m"})
    assert [a.policy for a in protection(desired).assignments] == ["z"]
    assert (
        "Policies z and a both replicate guest 101 to beta; the older, z, is in force"
        in (reasons(desired)["DuplicateTarget"])
    )


def test_two_disks_that_would_become_one_dataset_are_refused() -> None:
    disks = {"scsi0": {"volume": "local-zfs:v0"}, "scsi1": {"volume": "fast:v0"}}
    policy = {**TO_BETA, "targets": [{"node": "beta", "storages": {"fast": "local-zfs"}}]}
    fast = {"type": "zfspool", "properties": {"pool": "fast"}}
    desired = world(policies__p=policy, storage__fast=fast, guests__101={**WEB, "disks": disks})
    assert "would both become local-zfs:v0 on beta" in reasons(desired)["TargetCollision"]


def test_a_fault_of_one_guest_leaves_the_others_protected() -> None:
    faulty = {**WEB, "disks": {"scsi0": {"volume": "nowhere:v0"}}}
    desired = world(policies__p=TO_BETA, guests__102=faulty)
    assert protection(desired, 101).protected
    assert not protection(desired, 102).protected


NODES = st.sampled_from(["alpha", "beta", "gamma"])
STORAGES = st.sampled_from(["local-zfs", "dir", "nowhere"])


@given(
    home=NODES,
    disk=STORAGES,
    policies=st.dictionaries(
        st.sampled_from(["p", "q"]),
        st.lists(st.tuples(NODES, STORAGES), min_size=1, max_size=3, unique_by=lambda t: t[0]),
    ),
)
def test_every_guest_is_protected_or_told_why_not_and_never_onto_itself(
    home: str, disk: str, policies: dict[str, list[tuple[str, str]]]
) -> None:
    records = {
        f"policies__{name}": {**TO_BETA, "targets": [{"node": n, "storages": {disk: s}} for n, s in targets]}
        for name, targets in policies.items()
    }
    guest = {**WEB, "node": home, "disks": {"scsi0": {"volume": f"{disk}:v0"}}}
    desired = world(guests__101=guest, storage__dir={"type": "dir"}, **records)
    found = protection(desired)
    assert found.assignments or found.conditions
    assert {c.reason for c in found.conditions} <= REASONS
    targets = [a.node for a in found.assignments]
    assert len(targets) == len(set(targets))
    assert set(targets) <= set(desired.nodes) - {home}


def ceph(**properties: str) -> dict[str, object]:
    return {"type": "rbd", "shared": True, "properties": {"monhost": "10.0.0.1 10.0.0.2", **properties}}


ON_CEPH = {**WEB, "disks": {"scsi0": {"volume": "ceph:base-9-disk-0/vm-101-disk-0", "size": 2**30}}}
TO_OTHER = {**TO_BETA, "targets": [{"node": "beta", "storages": {"ceph": "other"}}]}


@pytest.mark.parametrize("other", [{"pool": "second"}, {"namespace": "beta"}, {"monhost": "10.9.0.1"}])
def test_an_image_goes_to_another_pool_namespace_or_cluster(other: dict[str, str]) -> None:
    desired = world(guests__101=ON_CEPH, storage__ceph=ceph(), storage__other=ceph(**other), policies__p=TO_OTHER)
    [assignment] = protection(desired).assignments
    assert assignment.disks[0].dataset == "rbd:ceph/vm-101-disk-0"
    assert assignment.disks[0].target_dataset == "rbd:other/vm-101-disk-0"


@pytest.mark.parametrize("policy", [TO_BETA, TO_OTHER])
def test_an_image_is_not_replicated_onto_itself(policy: Mapping[str, object]) -> None:
    same = ceph(pool="rbd", monhost="10.0.0.2,10.0.0.1")
    desired = world(guests__101=ON_CEPH, storage__ceph=ceph(), storage__other=same, policies__p=policy)
    assert "same pool and namespace" in reasons(desired)["TargetSameStorage"]


def test_ceph_is_not_replicated_to_zfs_nor_back() -> None:
    to_zfs = {**TO_BETA, "targets": [{"node": "beta", "storages": {"ceph": "local-zfs", "local-zfs": "ceph"}}]}
    for guest in (ON_CEPH, WEB):
        desired = world(guests__101=guest, storage__ceph=ceph(), policies__p=to_zfs)
        assert "TargetStorageType" in reasons(desired)
