import orjson
import pytest
from holdfast.coordinator.model.guest import Guest, Mode
from holdfast.coordinator.planning.desired import BadRecord, Records, check_name, parse
from hypothesis import given
from hypothesis import strategies as st

GUEST = {"type": "qemu", "node": "alpha", "disks": {"scsi0": {"volume": "local-zfs:vm-101-disk-0", "size": 2**30}}}
HOSTILE = ["", "a b", "a/b", "../a", "-rf", "--", "a@b", "a#b", "a\nb", "alpha\n", "nœud", "٣", "a\x00", "a" * 200]


def guest(**fields: object) -> bytes:
    return orjson.dumps({**GUEST, **fields})


def disk(**fields: object) -> bytes:
    return guest(disks={"scsi0": {"volume": "local-zfs:vm-101-disk-0", **fields}})


@pytest.mark.parametrize("folder", ["storage", "nodes", "policies", "requests", "guests", "placements"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_record_bears_a_name_that_could_be_an_option_a_path_or_a_second_line(folder: str, name: str) -> None:
    with pytest.raises(BadRecord) as refused:
        check_name(folder, name)
    assert "\n" not in str(refused.value), "a message is one line"


@pytest.mark.parametrize(
    "name", ["0101", "101.0", " 101", "101 ", "1_01", "+101", "99", "1000000000", "1e3", "\u0661\u0660\u0661"]
)
def test_a_vmid_has_one_spelling(name: str) -> None:
    with pytest.raises(BadRecord):
        check_name("guests", name)


@given(st.text())
def test_a_name_that_passes_is_plain_ascii_and_no_option(name: str) -> None:
    for folder in ("storage", "nodes", "policies", "requests", "guests"):
        try:
            check_name(folder, name)
        except BadRecord:
            continue
        assert name.isascii()
        assert name.isprintable()
        assert name[0].isalnum()
        assert not set(name) & set(" /@#:%")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "record:"),
        (b"{}", "type: is missing"),
        (guest(colour="red"), "colour: unknown field"),
        (disk(speed=1), "disks.scsi0.speed: unknown field"),
        (disk(size=0), "disks.scsi0.size: Input should be greater than or equal to 1"),
        (disk(size=2**63), "disks.scsi0.size: Input should be less than or equal to 9223372036854775807"),
        (disk(volume="vm-101-disk-0"), "write STOREID:volname"),
        (disk(volume="local-zfs:../x"), "not a volume"),
        (disk(volume="local-zfs:vm@x"), "not a volume"),
        (disk(volume="local-zfs:vm-1\n"), "not a volume"),
        (disk(volume="-zfs:vm-1"), "not a volume"),
        (guest(node="two words"), "'two words' is not allowed"),
        (guest(node="alpha\n"), r"'alpha\n' is not allowed"),
        (guest(tags=["ok", "-no"]), "tags.1: '-no' is not allowed"),
        (guest(type="xen"), "type: Input should be 'qemu' or 'lxc'"),
        (guest(disks={"scsi 0": {"volume": "local-zfs:vm-101-disk-0"}}), "'scsi 0'"),
        (
            guest(disks={"scsi0": {"volume": "local-zfs:v"}, "scsi1": {"volume": "local-zfs:v"}}),
            "scsi1 and scsi0 are both bound to local-zfs:v",
        ),
        (guest(definition="x" * 300_000), "larger than 262144 bytes"),
    ],
)
def test_a_bad_guest_is_refused_with_the_field_and_the_reason(value: bytes, says: str) -> None:
    with pytest.raises(BadRecord) as refused:
        parse("guests", "101", value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_largest_size_that_linux_can_address_is_accepted() -> None:
    record = parse("guests", "101", disk(size=2**63 - 1))
    assert isinstance(record, Guest)
    assert record.disks["scsi0"].size == 2**63 - 1


POLICY = {"selector": {"all": True}, "targets": [{"node": "beta"}], "rpo": "60s"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"selector": {}}, "give exactly one of vmid, tag, pool, storage"),
        ({"selector": {"all": True, "tag": ["x"]}}, "give exactly one of"),
        ({"selector": {"all": False}}, "give exactly one of"),
        ({"selector": {"vmid": [0]}}, "selector.vmid.0"),
        ({"targets": []}, "targets"),
        ({"targets": [{"node": "beta"}, {"node": "beta"}]}, "target beta is named twice"),
        ({"targets": [{"node": "beta", "storages": {"a b": "tank"}}]}, "'a b' is not allowed"),
        ({"rpo": "1s"}, "rpo: Input should be greater than or equal to 5"),
        ({"rpo": "soon"}, "time span 'soon'"),
        ({"schedule": "*/5"}, "give one of rpo"),
        ({"rpo": None}, "give one of rpo"),
        ({"rpo": None, "schedule": "teatime"}, "schedule"),
        ({"targets": [{"node": "beta", "bandwidth": 0}]}, "targets.0.bandwidth"),
        ({"targets": [{"node": "beta", "keep": "3x"}]}, "'3x' is no count"),
    ],
)
def test_a_bad_policy_is_refused_with_the_field_and_the_reason(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadRecord) as refused:
        parse("policies", "p", {k: v for k, v in {**POLICY, **change}.items() if v is not None})
    assert says in str(refused.value)


def test_a_bad_record_leaves_its_last_good_version_in_force_and_the_rest_alone() -> None:
    records = Records()
    records.put("guests/101", guest(name="web"), 1)
    records.put("guests/102", guest(name="db"), 2)
    records.put("guests/101", guest(name="web", colour="red"), 1)
    desired = records.desired()
    assert desired.guests[101].name == "web"
    assert desired.guests[102].name == "db"
    [problem] = desired.problems
    assert (problem.key, problem.in_force) == ("desired/guests/101", "previous version")
    assert problem.condition.reason == "BadRecord"
    assert "colour: unknown field" in problem.condition.message


def test_a_bad_record_that_never_was_good_has_nothing_in_force() -> None:
    records = Records()
    records.put("nodes/beta", b"nonsense", 1)
    desired = records.desired()
    assert not desired.nodes
    assert desired.problems[0].in_force == "nothing"


def test_the_last_good_version_survives_a_restart_of_the_reader() -> None:
    before = Records()
    before.put("guests/101", guest(name="web"), 1)
    after = Records(before.last_good)
    after.put("guests/101", b"{", 1)
    assert after.desired().guests[101].name == "web"
    assert after.desired().problems[0].in_force == "previous version"


def test_a_last_good_version_that_this_release_cannot_read_is_let_go() -> None:
    records = Records({"guests/101": b'{"of": "the future"}'})
    records.put("guests/101", b"{", 1)
    assert 101 not in records.desired().guests
    assert "guests/101" not in records.last_good


def test_a_correction_ends_the_problem() -> None:
    records = Records()
    records.put("guests/101", b"{", 1)
    records.put("guests/101", guest(), 1)
    assert records.desired().problems == ()


def test_what_was_deleted_is_gone_with_its_last_good_version_and_problem() -> None:
    records = Records()
    records.put("guests/101", guest(), 1)
    records.put("guests/101", b"{", 1)
    records.delete("guests/101")
    assert records.desired().guests == {}
    assert records.desired().problems == ()
    assert records.last_good == {}


def test_a_key_in_no_known_folder_is_a_problem_and_no_crash() -> None:
    records = Records()
    records.put("dinners/101", b"{}", 1)
    assert "no such kind of record: 'dinners'" in records.desired().problems[0].condition.message


def test_a_guest_without_a_placement_is_replicated() -> None:
    records = Records()
    records.put("placements/102", b'{"mode": "observe"}', 1)
    assert records.desired().mode(101) is Mode.REPLICATE
    assert records.desired().mode(102) is Mode.OBSERVE


@given(st.lists(st.tuples(st.sampled_from(["101", "102"]), st.sampled_from([guest(), b"{", b"{}", None]))))
def test_whatever_is_written_the_newest_good_version_since_the_last_deletion_is_in_force(
    writes: list[tuple[str, bytes | None]],
) -> None:
    records, expected = Records(), set()
    for name, value in writes:
        if value is None:
            records.delete(f"guests/{name}")
            expected.discard(int(name))
        else:
            records.put(f"guests/{name}", value, 1)
            expected |= {int(name)} if value == guest() else set()
    assert set(records.desired().guests) == expected


def test_policies_of_two_kinds_lie_in_one_folder() -> None:
    records = Records()
    records.put("policies/a", b'{"selector":{"all":true},"rpo":60,"targets":[{"node":"beta"}]}', 1)
    records.put("policies/b", b'{"kind":"SnapshotPolicy","selector":{"all":true},"every":"1h","keep":{"last":1}}', 2)
    assert (list(records.desired().policies), list(records.desired().snapshot_policies)) == (["a"], ["b"])
    records.put("policies/b", b'{"kind":"SnapshotPolicy","selector":{"all":true},"every":"1h"}', 3)
    [problem] = records.desired().problems
    assert "keep: is missing" in problem.condition.message
    assert records.desired().snapshot_policies["b"].every == 3600, "the last good one stays in force"
