from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.agent.storage.zfs.scan import COLUMNS, read
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.planning.leftovers import plan_cleanup
from holdfast.coordinator.planning.observed import Scan, Space
from hypothesis import given, settings
from hypothesis import strategies as st

RECORDED = Path(__file__).parents[2] / "fixtures/zfs"
LISTED, LOCAL = ((RECORDED / name).read_bytes() for name in ("list.tsv", "local.tsv"))
AT = datetime(2026, 1, 2, tzinfo=UTC)
DISK_0, DISK_1 = "tank/guests/vm-101-disk-0", "tank/guests/vm-101-disk-1"


@pytest.fixture(scope="module")
def seen() -> Scan:
    return read(AT, LISTED, LOCAL)


def test_points_are_read_with_their_members_and_are_complete(seen: Scan) -> None:
    first, second = seen.complete_points(101)
    assert (first.id, second.id) == (PointId(2, 1), PointId(2, 2))
    assert [m.snapshot for m in second.members] == ["holdfast-2-2", "holdfast-2-1"], "the second disk was idle"
    assert [m.size for m in second.members] == [64 * 2**20, 32 * 2**20]
    assert seen.volumes[DISK_0].snapshot(second.members[0].guid) is not None


def test_the_pools_room_is_that_of_its_root(seen: Scan) -> None:
    assert seen.space == {"tank": Space(1862270976, 1862270976 + 64064000)}


def test_a_guid_of_2_63_and_more_is_one_number_whether_zfs_list_or_a_channel_program_wrote_it(seen: Scan) -> None:
    guid = seen.complete_points(101)[1].members[0].guid
    assert guid >= 2**63
    assert b'"guid":-' in LOCAL, "as the channel program wrote it"
    assert [s.guid for s in seen.volumes[DISK_0].snapshots][-1] == guid


def test_the_marks_of_a_guest_are_read(seen: Scan) -> None:
    [anchor] = seen.anchors_of(101)
    assert (anchor.pool, anchor.epoch) == ("tank", 2)
    assert anchor.sent == {"Beta": PointId(2, 1)}, "a property's name is lower case, a node's is not"
    assert list(anchor.definitions) == ["0123456789abcdef"]
    assert anchor.definitions["0123456789abcdef"].startswith("name: web\ncores: 2\n")


def test_snapshots_and_bookmarks_are_in_the_order_in_which_they_were_made(seen: Scan) -> None:
    names = [s.name for s in seen.volumes[DISK_1].snapshots]
    assert names == ["holdfast-2-1", "autosnap_2026-01-02_hourly", "with blanks"]
    assert [b.name for b in seen.volumes[DISK_1].bookmarks] == ["holdfast-2-1"]
    assert seen.volumes[DISK_1].bookmarks[0].guid == seen.volumes[DISK_1].snapshots[0].guid
    assert [s.holds for s in seen.volumes[DISK_0].snapshots] == [1, 0]


def test_sizes_are_those_of_the_zvol_or_the_quota(seen: Scan) -> None:
    assert seen.volumes[DISK_0].size == 64 * 2**20
    assert seen.volumes["tank/guests/subvol-102-disk-0"].size == 50 * 2**20
    assert seen.volumes["tank/guests/subvol-102-disk-0"].properties == {
        "refquota": str(50 * 2**20),
        "acltype": "posix",
        "xattr": "sa",
    }
    assert all(v.size >= 1 for v in seen.volumes.values())


def test_an_idle_volume_is_unchanged_since_its_point_and_a_written_one_is_not(seen: Scan) -> None:
    first = seen.complete_points(101)[0]
    assert seen.volumes[DISK_1].unchanged_since(first.members[1].guid)
    assert not seen.volumes[DISK_0].unchanged_since(first.members[0].guid)


def test_a_mark_counts_on_the_dataset_that_it_is_set_on_and_not_on_its_children(seen: Scan) -> None:
    assert seen.volumes["tank/guests"].marks == {"replica": "101/scsi0"}
    assert seen.volumes[DISK_0].marks == {}
    assert seen.volumes["tank/replicas/vm-101-disk-0"].marks == {"replica": "101/scsi0"}


@pytest.mark.parametrize(("dataset", "snapshots"), [("tank/replicas/vm-101-disk-0", 1), ("tank/replicas/full", 0)])
def test_of_a_half_received_stream_it_is_known_what_it_was_bringing(seen: Scan, dataset: str, snapshots: int) -> None:
    volume = seen.volumes[dataset]
    assert volume.resume_token is not None
    assert volume.resume_guid == seen.volumes[DISK_0].snapshots[-1].guid
    assert volume.resume_base == (volume.snapshots[-1].guid if snapshots else None)
    assert len(volume.snapshots) == snapshots


def test_what_is_encrypted_is_known(seen: Scan) -> None:
    assert [v.dataset for v in seen.volumes.values() if v.encrypted] == ["tank/guests/vm-103-disk-0"]


def test_datasets_of_others_are_seen_and_no_guests(seen: Scan) -> None:
    assert "tank/other data" in seen.volumes
    assert {vmid for _, vmid in seen.anchors} == {101}


def test_what_was_seen_is_what_plans_can_use(seen: Scan) -> None:
    cleanup = plan_cleanup(101, seen, ["Beta"])
    assert cleanup.hold == (f"{DISK_0}@holdfast-2-2",)
    assert (cleanup.destroy, cleanup.forget) == ((), ())


GARBAGE = [
    b"\n",
    b"\xff\xfe\n",
    b"tank/x\tvolume\n",
    b"\t" * (len(COLUMNS) - 1) + b"\n",
    b"tank/gone@s\tsnapshot" + b"\t1" * (len(COLUMNS) - 2) + b"\n",
    b"tank/x y\tvolume" + b"\tgarbage" * (len(COLUMNS) - 2) + b"\n",
    "tank/\u2028x\tfilesystem".encode() + b"\t-" * (len(COLUMNS) - 2) + b"\n",
]


@pytest.mark.parametrize("line", GARBAGE)
def test_a_line_that_cannot_be_read_changes_nothing_else(seen: Scan, line: bytes) -> None:
    for listed in (line + LISTED, LISTED + line):
        found = read(AT, listed, line + LOCAL + line)
        assert {name: found.volumes[name] for name in seen.volumes} == seen.volumes
        assert found.anchors == seen.anchors


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_newline_ends_a_line(separator: str) -> None:
    """zfs prints values as they are: what else Python takes for the end of a line must not start a forged one."""
    value = f"x{separator}tank/holdfast/guests/101\tholdfast:epoch\t99"
    forged = f"tank/guests\tcom.example:note\t{value}\n".encode()
    assert read(AT, LISTED, LOCAL + forged).anchors["tank", 101].epoch == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"epoch":2,"sequence":1', b'{"epoch":2,"colour":"red","sequence":1'),
        (b'{"epoch":2,"sequence":1', b"{"),
    ],
)
def test_a_point_that_another_version_wrote_is_none_to_us_and_the_others_are(old: bytes, new: bytes) -> None:
    assert old in LOCAL
    found = read(AT, LISTED, LOCAL.replace(old, new, 1))
    assert [p.id for p in found.complete_points(101)] == [PointId(2, 2)]


def test_a_mark_of_a_target_that_cannot_be_read_is_none() -> None:
    found = read(AT, LISTED, LOCAL.replace(b"\t2-1 Beta", b"\tgarbage"))
    assert found.anchors["tank", 101].sent == {}


@settings(max_examples=50)
@given(st.binary(), st.binary(), st.integers(0, len(LISTED)), st.integers(0, len(LOCAL)))
def test_no_output_makes_it_fail(listed: bytes, local: bytes, cut: int, cut_local: int) -> None:
    read(AT, listed, local)
    read(AT, LISTED[:cut] + listed + LISTED[cut:], LOCAL[:cut_local] + local + LOCAL[cut_local:])
