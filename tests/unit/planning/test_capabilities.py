"""What can be done on which storage: one table, and what is said where something cannot."""

import pytest
from click.testing import CliRunner
from holdfast.coordinator.cli.storage import capabilities
from holdfast.coordinator.model.capabilities import CAN, Capability, lacking
from holdfast.coordinator.model.storage import Storage

ZFS = Storage(type="zfspool", properties={"pool": "tank"})


def test_a_storage_can_what_the_table_says_of_its_type() -> None:
    ceph = Storage(type="rbd", shared=True)
    assert {each for each in Capability if ceph.can(each)} == CAN["rbd"]
    assert {each for each in Capability if ZFS.can(each)} == CAN["zfspool"]


@pytest.mark.parametrize("storage", [Storage(type="lvmthin"), ZFS.model_copy(update={"shared": True})])
def test_a_type_that_is_not_known_or_shared_against_its_nature_can_nothing(storage: Storage) -> None:
    assert not any(storage.can(each) for each in Capability)


def test_a_refusal_names_what_is_missing_and_which_storage_has_it() -> None:
    assert lacking("rbd:ceph-a/vm-101-disk-0", Capability.CLONE) is None
    assert lacking("rbd:ceph-a/vm-101-disk-0", Capability.RESUME) == (
        "rbd:ceph-a/vm-101-disk-0 is on storage of type rbd, which cannot go on with a stream where it was cut"
        " (can: zfspool)."
    )
    assert lacking("tank/vm-101-disk-0", Capability.TRASH) == (
        "tank/vm-101-disk-0 is on storage of type zfspool, which cannot keep what is removed for a time of grace"
        " (can: rbd)."
    )


def test_a_refusal_says_what_to_do_instead_where_there_is_something() -> None:
    said = lacking("tank/vm-101-disk-0", Capability.FLATTEN)
    assert said is not None
    assert said.endswith(
        "cannot make copies that do not need their point (can: rbd). Make a copy that needs it, and zfs"
        " send | zfs recv that."
    )


def test_people_see_the_whole_table() -> None:
    shown = CliRunner().invoke(capabilities).output.splitlines()
    assert shown[0].split()[:3] == ["CAPABILITY", "rbd", "zfspool"]
    assert [line.split()[0] for line in shown[1:]] == [each.value for each in Capability]
    assert next(line for line in shown if line.startswith("resume")).split()[1:3] == ["no", "yes"]
