from dataclasses import replace

import pytest
from holdfast.agent.ports import WireError
from holdfast.agent.transfer.convert import at_target, inventory, inventory_message
from holdfast.agent.transfer.sender import _base_guid, _estimate
from holdfast.coordinator.planning.observed import Bookmark
from holdfast.coordinator.planning.protection import Inventory
from holdfast.coordinator.planning.steps import SendDisk
from holdfast.proto import transfer_pb2 as wire
from unit.planning.made import VMID, Home, assignment, dataset, disk_map

TOKEN = "1-abc"


def over_the_wire(message: wire.Inventory) -> Inventory:
    return inventory(wire.Inventory.FromString(message.SerializeToString()))


def test_what_a_target_holds_arrives_as_it_was_seen_there() -> None:
    home = Home("scsi0", "fast0")
    point = home.take()
    home.write("scsi0")
    big = home.take()
    home.change("scsi0", marks={"replica": f"{VMID}/scsi0"}, resume_token=TOKEN, resume_guid=2**64 - 1, resume_base=7)
    asked = [dataset("scsi0"), dataset("fast0"), "tank/not-there"]
    found = over_the_wire(inventory_message(home.scan(), VMID, asked))
    assert [p.id for p in found.points] == [point.id, big.id]
    assert found.last == home.scan().complete_points(VMID)[-1]
    assert found.epoch == 1
    assert set(found.volumes) == {dataset("scsi0"), dataset("fast0")}
    ours, foreign = found.volumes[dataset("scsi0")], found.volumes[dataset("fast0")]
    assert (ours.ours, ours.guids) == (True, (point.members[0].guid, big.members[0].guid))
    assert (ours.resume_token, ours.resume_guid, ours.resume_base) == (TOKEN, 2**64 - 1, 7)
    assert (foreign.ours, foreign.resume_token, foreign.resume_guid, foreign.resume_base) == (False, None, None, None)


@pytest.mark.parametrize(
    ("mark", "ours"), [("101/scsi0", True), ("1011/scsi0", False), ("10/scsi0", False), ("", False)]
)
def test_a_replica_is_this_guests_only_by_its_whole_vmid(mark: str, ours: bool) -> None:
    home = Home("scsi0")
    home.change("scsi0", marks={"replica": mark})
    found = over_the_wire(inventory_message(home.scan(), VMID, [dataset("scsi0")]))
    assert found.volumes[dataset("scsi0")].ours is ours


def test_a_half_received_full_stream_was_not_written_to_by_anybody() -> None:
    home = Home("scsi0")
    home.change("scsi0", written=8_000_000, resume_token=TOKEN)
    found = over_the_wire(inventory_message(home.scan(), VMID, [dataset("scsi0")]))
    assert found.volumes[dataset("scsi0")].written == 0


def test_only_complete_points_are_told() -> None:
    home = Home()
    home.destroy("scsi0", home.take().members[0].guid)
    assert over_the_wire(inventory_message(home.scan(), VMID, [])).points == ()


@pytest.mark.parametrize("record", [b"", b"{}", b'{"epoch":1}', b"\xff"])
def test_points_of_another_version_are_an_error_of_the_connection(record: bytes) -> None:
    with pytest.raises(WireError, match="cannot be read"):
        inventory(wire.Inventory(points=[record]))


def test_a_record_names_the_targets_own_volumes_and_the_same_snapshots() -> None:
    point = Home().take()
    there = at_target(point, assignment())
    assert [(m.dataset, m.volume) for m in there.members] == [
        ("far/vm-101-scsi0", "far:vm-101-scsi0"),
        ("far/vm-101-scsi1", "far:vm-101-scsi1"),
    ]
    assert [(m.disk, m.guid, m.size, m.snapshot) for m in there.members] == [
        (m.disk, m.guid, m.size, m.snapshot) for m in point.members
    ]
    assert (there.id, there.instant, there.disks) == (point.id, point.instant, point.disks)


def step(base: str | None, guid: int, token: str | None = None) -> SendDisk:
    return SendDisk(VMID, "beta", disk_map("scsi0"), "x", guid, base, token, raw=False)


def test_how_much_will_be_sent_is_what_was_written_between_base_and_goal() -> None:
    home = Home("scsi0")
    home.change("scsi0", referenced=77)
    guids = []
    for written in (1, 10, 100, 1000):
        home.change("scsi0", written=written)
        guids.append(home.snapshot("scsi0", f"holdfast-1-{len(guids) + 1}").guid)
    volume = home.volumes[dataset("scsi0")]
    assert _estimate(volume, step("@holdfast-1-1", guids[2])) == 110
    assert _estimate(volume, step("@holdfast-1-3", guids[3])) == 1000
    assert _estimate(volume, step(None, guids[0])) == 77
    assert _estimate(volume, step(None, guids[0], TOKEN)) is None
    assert _estimate(volume, step("#holdfast-0-9", guids[3])) is None, "the bookmark's snapshot has gone"


def test_a_base_is_named_to_the_target_by_its_guid() -> None:
    home = Home("scsi0")
    taken = home.snapshot("scsi0", "holdfast-1-1")
    volume = replace(home.volumes[dataset("scsi0")], bookmarks=(Bookmark("holdfast-1-1", 2**63, 1),))
    assert _base_guid(volume, "@holdfast-1-1") == taken.guid
    assert _base_guid(volume, "#holdfast-1-1") == 2**63
    assert _base_guid(volume, None) == 0
