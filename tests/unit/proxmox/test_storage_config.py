import hashlib
from contextlib import suppress

import pytest
from holdfast.coordinator.proxmox.storage_config import Storage, StorageConfig, StorageConfigError
from holdfast.coordinator.proxmox.storage_types import PROPERTIES, TYPES
from hypothesis import given
from hypothesis import strategies as st


def parse(text: str) -> StorageConfig:
    return StorageConfig.parse(text.encode())


def one(text: str, storage_id: str = "store") -> Storage:
    return parse(text).storages[storage_id]


def warned(text: str) -> list[int]:
    return [finding.line for finding in parse(text).warnings]


def test_a_section_reads_as_proxmox_reads_it() -> None:
    storage = one("zfspool: store\n\tpool tank/vms\n\tsparse\n\tcontent rootdir;images\n\tnodes b a\n\tdisable\n")
    assert storage.properties == {"pool": "tank/vms", "sparse": True}
    assert storage.content == {"images", "rootdir"}
    assert storage.nodes == {"a", "b"}
    assert (storage.shared, storage.disabled, storage.line) == (False, True, 1)


def test_the_digest_is_that_of_the_bytes() -> None:
    data = b"dir: store\n\tpath /a\n"
    assert StorageConfig.parse(data).digest == hashlib.sha1(data).hexdigest()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", True), (" 1", True), (" 0", False)],
)
def test_a_bare_boolean_is_true(value: str, expected: bool) -> None:
    assert one(f"zfspool: store\n\tpool tank\n\tsparse{value}\n").properties["sparse"] is expected


@pytest.mark.parametrize("value", ["yes", "no", "on", "2", "true"])
def test_a_boolean_takes_no_words(value: str) -> None:
    text = f"zfspool: store\n\tpool tank\n\tsparse {value}\n"
    assert "sparse" not in one(text).properties
    assert warned(text) == [3]


@pytest.mark.parametrize("value", ["yes", "no", "/mnt/data", "1"])
def test_is_mountpoint_takes_words_or_a_path(value: str) -> None:
    assert one(f"dir: store\n\tpath /a\n\tis_mountpoint {value}\n").properties["is_mountpoint"] == value


def test_the_first_of_duplicate_keys_counts() -> None:
    text = "dir: store\n\tpath /a\n\tpath /b\n"
    assert one(text).properties["path"] == "/a"
    assert warned(text) == [3]


def test_a_refused_value_does_not_count_as_the_first() -> None:
    text = "dir: store\n\tpath nowhere\n\tpath /b\n"
    assert one(text).properties["path"] == "/b"
    assert warned(text) == [2]


def test_without_an_empty_line_a_second_header_is_ignored() -> None:
    text = "dir: store\n\tpath /a\ndir: other\n\tpath /b\n"
    config = parse(text)
    assert set(config.storages) == {"local", "store"}
    assert config.storages["store"].properties["path"] == "/a"
    assert warned(text) == [3, 4]


def test_a_later_section_replaces_an_earlier_one_of_the_same_id() -> None:
    assert one("dir: store\n\tpath /a\n\nnfs: store\n\tserver s\n\texport /e\n").type == "nfs"


def test_of_two_sections_of_unknown_types_the_later_counts() -> None:
    config = parse("linstor: own\n\tcontroller a\n\nlinstor: own\n\tcontroller b\n")
    assert (config.storages["own"].properties, config.storages["own"].line) == ({"controller": "b"}, 4)


def test_a_section_of_an_unknown_type_does_not_replace_one_that_proxmox_knows() -> None:
    assert parse("zfspool: own\n\tpool a\n\nlinstor: own\n\tcontroller b\n").storages["own"].type == "zfspool"


def test_a_type_that_repeats_the_header_is_no_surprise() -> None:
    config = parse("zfspool: own\n\ttype zfspool\n\tpool a\n")
    assert (config.warnings, config.storages["own"].properties) == ([], {"pool": "a"})
    config = parse("zfspool: own\n\ttype dir\n\tpool a\n")
    assert [w.line for w in config.warnings] == [2]


def test_a_broken_later_section_takes_the_earlier_one_with_it() -> None:
    config = parse("dir: store\n\tpath /a\n\ndir: store\n\tshared 1\n")
    assert "store" not in config.storages
    assert [(lost.line, lost.id) for lost in config.errors] == [(4, "store")]


def test_a_section_of_a_bad_id_is_skipped_without_a_word_on_its_lines() -> None:
    text = "dir: s\n\tpath /a\n\tnonsense 3\n\ndir: -x\n\tpath /b\n"
    assert set(parse(text).storages) == {"local"}
    assert warned(text) == [1, 5]


def test_a_missing_required_property_drops_the_section() -> None:
    assert "store" not in parse("nfs: store\n\tserver s\n").storages
    assert "store" not in parse("zfs: store\n\tportal p\n\ttarget t\n\tpool p\n\tblocksize 4k\n").storages


def test_an_unknown_property_is_dropped_and_the_section_kept() -> None:
    text = "dir: store\n\tpath /a\n\tcolour blue\n\tpool tank\n"
    assert one(text).properties == {"path": "/a"}
    assert warned(text) == [3, 4]


def test_content_that_the_type_does_not_hold_is_dropped() -> None:
    text = "lvm: store\n\tvgname vg\n\tcontent images,iso\n"
    assert one(text).content == {"images"}
    assert warned(text) == [3]


def test_a_word_that_is_no_content_type_spoils_the_property_and_the_default_holds() -> None:
    text = "dir: store\n\tpath /a\n\tcontent iso,films\n"
    assert one(text).content == {"images", "rootdir"}
    assert warned(text) == [3]


def test_none_stands_alone() -> None:
    assert one("dir: store\n\tpath /a\n\tcontent none\n").content == {"none"}
    assert "store" not in parse("dir: store\n\tpath /a\n\tcontent none,iso\n").storages


def test_a_type_without_none_needs_content() -> None:
    assert "store" not in parse("lvm: store\n\tvgname vg\n\tcontent iso\n").storages
    assert one("dir: store\n\tpath /a\n\tcontent ,\n").content == frozenset()


def test_a_bad_node_name_lifts_the_restriction() -> None:
    assert one("dir: store\n\tpath /a\n\tnodes a,b_c\n").nodes is None


@pytest.mark.parametrize("path", ["relative", "/a b", "/ä", "/a;b", "/a'b"])
def test_a_directory_with_an_odd_path_is_skipped(path: str) -> None:
    assert "store" not in parse(f"dir: store\n\tpath {path}\n").storages


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/a//b/", "/a/b"),
        ("/a/./b/.", "/a/b"),
        ("/../a", "/a"),
        ("/a/../b", "/a/../b"),
        ("/..", "/"),
        ("/.x/..y", "/.x/..y"),
    ],
)
def test_a_directorys_path_is_tidied_but_not_resolved(written: str, meant: str) -> None:
    assert one(f"dir: store\n\tpath {written}\n").properties["path"] == meant


def test_local_keeps_its_section_whatever_slashes_its_path_has() -> None:
    config = parse("dir: local\n\tpath /var//lib/vz/\n\tcontent iso\n")
    assert (config.storages["local"].content, config.errors) == (frozenset({"iso"}), [])


def test_a_format_that_the_type_lacks_is_dropped() -> None:
    text = "btrfs: store\n\tpath /a\n\tformat qcow2\n"
    assert "format" not in one(text).properties
    assert one(text).formats == ("raw", "subvol")
    assert warned(text) == [3]
    assert one("dir: store\n\tpath /a\n\tformat qcow2\n").formats[0] == "qcow2"


def test_mounted_types_have_a_path_of_their_own() -> None:
    assert one("nfs: store\n\tserver s\n\texport /e\n").properties["path"] == "/mnt/pve/store"


def test_network_storages_are_shared_whatever_they_say() -> None:
    assert one("rbd: store\n\tpool p\n").shared
    assert one("dir: store\n\tpath /a\n\tshared 1\n").shared
    text = "zfspool: store\n\tpool p\n\tshared 1\n"
    assert not one(text).shared
    assert warned(text) == [3]


def test_local_is_there_even_in_an_empty_file() -> None:
    local = one("", "local")
    assert (local.type, local.line, local.properties["path"]) == ("dir", 0, "/var/lib/vz")
    assert local.content == {"backup", "images", "iso", "rootdir", "snippets", "vztmpl"}


def test_local_of_another_type_or_place_is_replaced() -> None:
    for text in ("dir: local\n\tpath /data\n", "zfspool: local\n\tpool p\n", "dir: local\n\tcontent iso\n"):
        assert one(text, "local").line == 0
        assert parse(text).errors


def test_local_is_on_every_node() -> None:
    local = one("dir: local\n\tpath /var/lib/vz\n\tnodes a\n\tcontent iso\n", "local")
    assert (local.nodes, local.content, local.line) == (None, {"iso"}, 1)


def test_an_unknown_type_is_kept_and_reported() -> None:
    text = "linstor: store\n\tresourcegroup a\n\tcontent images\n\tshared 1\n\tx 1\n\tx 2\n"
    storage = one(text)
    assert storage.properties == {"resourcegroup": "a", "x": ["1", "2"]}
    assert (storage.content, storage.shared, storage.known) == ({"images"}, True, None)
    assert warned(text) == [1]


def test_glusterfs_is_still_read() -> None:
    assert one("glusterfs: store\n\tvolume v\n\tserver s\n").shared


@pytest.mark.parametrize("block_size", ["4k", "16K", "1m", "512", "131072"])
def test_block_sizes_are_powers_of_two(block_size: str) -> None:
    assert one(f"zfspool: store\n\tpool p\n\tblocksize {block_size}\n").properties["blocksize"] == block_size


@pytest.mark.parametrize(
    "line",
    [
        *("blocksize 3k", "blocksize 32m", "bwlimit 100", "bwlimit migration=-1", "bwlimit walk=3", "mountpoint a"),
        *("sparse", "content", "nodes", "sparse 1 1"),
    ],
)
def test_what_a_zfspool_refuses(line: str) -> None:
    text = f"zfspool: store\n\tpool p\n\tsparse 0\n\t{line}\n"
    assert warned(text) == [4]


def test_every_property_of_every_type_has_a_meaning() -> None:
    assert {name for entry in TYPES.values() for name in entry.properties()} <= set(PROPERTIES)
    assert all(entry.default_content <= entry.content for entry in TYPES.values())
    assert all(entry.fixed <= entry.properties() for entry in TYPES.values())


def test_features_depend_on_state_and_format() -> None:
    assert TYPES["zfspool"].can("replicate", "base")
    assert not TYPES["zfspool"].can("replicate", "snap")
    assert not TYPES["lvmthin"].can("replicate")
    assert TYPES["dir"].can("snapshot", "current", "qcow2")
    assert not TYPES["dir"].can("snapshot", "current", "raw")
    assert [name for name, entry in TYPES.items() if entry.can("replicate")] == ["zfspool"]


MESSY = "# top\nDIR: store\n\t# kept\n\tpath /a\n  odd line\n\tcolour blue\n\nfoo: bar\n\tx y\n\n"


def test_an_edit_touches_its_own_section_only() -> None:
    edited = parse(MESSY).with_section("store", "dir", {"path": "/b", "shared": "1"})
    assert edited.render().decode() == "# top\n\t# kept\ndir: store\n\tpath /b\n\tshared 1\n\nfoo: bar\n\tx y\n\n"


def test_a_new_section_goes_to_the_end() -> None:
    assert parse(MESSY).with_section("new", "zfspool", {"pool": "p", "sparse": None}).render().decode() == (
        MESSY.rstrip("\n") + "\n\nzfspool: new\n\tpool p\n\tsparse\n\n"
    )
    assert parse("").with_section("new", "dir", {"path": "/b"}).render() == b"dir: new\n\tpath /b\n\n"


def test_replacing_leaves_no_older_section_of_the_name_behind() -> None:
    config = parse("dir: store\n\tpath /a\n\ndir: store\n\tpath /b\n").with_section("store", "dir", {"path": "/c"})
    assert config.render().decode() == "dir: store\n\tpath /c\n"


def test_removing_takes_the_section_and_its_empty_line() -> None:
    assert parse(MESSY).without_section("bar").without_section("store").render().decode() == "# top\n\t# kept\n\n"
    assert parse("dir: one\n\tpath /a\n\ndir: two\n\tpath /b\n").without_section("one").render() == (
        b"dir: two\n\tpath /b\n"
    )


@pytest.mark.parametrize(
    ("storage_id", "type_name", "properties"),
    [
        ("s", "dir", {"path": "/a"}),
        ("store", "dir", {}),
        ("store", "dir", {"path": "/a", "colour": "blue"}),
        ("store", "dir", {"path": "/a\nnfs: x"}),
        ("store", "lvm", {"vgname": "vg", "content": "iso"}),
        ("local", "dir", {"path": "/elsewhere"}),
        ("sto re", "dir", {"path": "/a"}),
    ],
)
def test_what_proxmox_would_drop_is_not_written(storage_id: str, type_name: str, properties: dict[str, str]) -> None:
    with pytest.raises(StorageConfigError):
        parse(MESSY).with_section(storage_id, type_name, properties)


LINES = st.lists(
    st.sampled_from(
        [
            *("dir: store", "zfspool: store", "nfs: other", "x: y", "", "", "# c", "\tpath /a", "\tpool p", "   "),
            *("\tserver s", "\texport /e", "\tshared", "\tcontent none,iso", "\tnodes a,b", "\tnodes", "junk"),
            *("dir: local", "\tblocksize k", "\tprune-backups keep-last=1", "\tcontent-dirs iso=a"),
            "\tport 99999999999999999999",
        ]
    )
    | st.text(max_size=10),
    max_size=24,
)


@given(LINES.map("\n".join))
def test_rendering_gives_the_bytes_back_and_nothing_is_raised(text: str) -> None:
    data = text.encode()
    assert StorageConfig.parse(data).render() == data


@given(st.binary())
def test_any_bytes_survive(data: bytes) -> None:
    assert StorageConfig.parse(data).render() == data


@given(LINES.map("\n".join), st.sampled_from(["store", "other", "new", "local"]))
def test_an_edit_is_what_is_read_back_and_leaves_the_others(text: str, storage_id: str) -> None:
    before = parse(text)
    path = "/var/lib/vz" if storage_id == "local" else "/edited"
    after = before.with_section(storage_id, "dir", {"path": path})
    assert after.storages[storage_id].properties["path"] == path
    others = {k: (s.type, s.properties, s.content) for k, s in before.storages.items() if k != storage_id}
    assert {k: (s.type, s.properties, s.content) for k, s in after.storages.items() if k != storage_id} == others
    removed = after.without_section(storage_id)
    assert storage_id == "local" or storage_id not in removed.storages


@given(st.dictionaries(st.sampled_from(sorted(PROPERTIES)), st.text(max_size=8), max_size=4))
def test_what_is_written_is_read_back_or_refused(properties: dict[str, str]) -> None:
    with suppress(StorageConfigError):
        config = parse("").with_section("store", "dir", {"path": "/a"} | properties)
        assert not config.warnings
        assert "store" in config.storages
