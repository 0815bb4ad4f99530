import json
import os
import shutil
from pathlib import Path

import pytest
from holdfast.coordinator.mirror.tree import LARGEST_FILE, TreeReader

PVE = Path(__file__).parents[2] / "fixtures" / "pve"
GUEST = "nodes/alpha/qemu-server/101.conf"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pve"
    shutil.copytree(PVE, root)
    for file in root.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return root


def test_the_second_look_has_everything(root: Path) -> None:
    reader = TreeReader(root)
    assert not reader.look().complete
    tree = reader.look()
    assert tree.complete
    assert tree.writable
    assert len(list(tree.guests())) == 40
    assert tree.files["storage.cfg"] == (PVE / "storage.cfg").read_bytes()


def test_a_change_counts_once_it_stands_still(root: Path) -> None:
    reader = TreeReader(root)
    reader.look()
    before = reader.look()
    (root / GUEST).write_text("name: half")
    assert reader.look().files[GUEST] == before.files[GUEST]
    (root / GUEST).write_text("name: whole\n")
    tree = reader.look()
    assert (tree.complete, tree.files[GUEST]) == (False, before.files[GUEST])
    tree = reader.look()
    assert (tree.complete, tree.files[GUEST]) == (True, b"name: whole\n")


def test_a_change_that_leaves_time_and_size_is_seen_if_it_is_recent(root: Path) -> None:
    reader = TreeReader(root)
    (root / GUEST).write_text("name: aa\n")
    stamp = (root / GUEST).stat()
    reader.look()
    assert reader.look().files[GUEST] == b"name: aa\n"
    (root / GUEST).write_text("name: bb\n")
    os.utime(root / GUEST, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert reader.look().files[GUEST] == b"name: bb\n"


def test_an_old_time_of_change_is_believed_unless_asked_to_read_afresh(root: Path) -> None:
    reader = TreeReader(root)
    reader.look()
    before = reader.look().files[GUEST]
    (root / GUEST).write_bytes(before.replace(b"name", b"nome"))
    os.utime(root / GUEST, (1_700_000_000, 1_700_000_000))
    assert reader.look().files[GUEST] == before
    assert reader.look(afresh=True).files[GUEST] != before


def test_what_is_gone_is_gone_from_a_complete_tree(root: Path) -> None:
    reader = TreeReader(root)
    reader.look()
    reader.look()
    (root / GUEST).unlink()
    tree = reader.look()
    assert tree.complete
    assert GUEST not in tree.files


def test_a_tree_that_is_missing_or_empty_is_not_complete(root: Path) -> None:
    reader = TreeReader(root)
    reader.look()
    reader.look()
    root.rename(root.with_name("away"))
    assert not reader.look().complete
    root.mkdir()
    assert not reader.look().complete
    (root / "storage.cfg").write_text("")
    reader.look()
    assert not reader.look().complete


def test_without_quorum_it_is_not_writable(root: Path) -> None:
    reader = TreeReader(root)
    (root / ".members").write_text(json.dumps({"cluster": {"quorate": 0}}))
    assert not reader.is_writable()
    (root / ".members").write_text(json.dumps({"cluster": {"quorate": 1}}))
    assert reader.is_writable()
    (root / ".members").write_text("{")
    assert reader.is_writable()
    root.chmod(0o555)
    assert not reader.is_writable()
    root.chmod(0o755)
    assert not TreeReader(root / "gone").is_writable()


def test_a_file_that_is_too_large_spoils_the_tree_and_leaves_the_last_good_one(root: Path) -> None:
    reader = TreeReader(root)
    reader.look()
    before = reader.look().files[GUEST]
    (root / GUEST).write_bytes(b"#" * (LARGEST_FILE + 1))
    reader.look()
    tree = reader.look()
    assert (tree.complete, tree.files[GUEST]) == (False, before)
    assert GUEST in tree.problems[0]


def test_a_directory_in_place_of_a_file_spoils_the_tree(root: Path) -> None:
    (root / GUEST).unlink()
    (root / GUEST).mkdir()
    reader = TreeReader(root)
    reader.look()
    assert not reader.look().complete


def test_only_files_named_for_guests_count(root: Path) -> None:
    for name in ("101.conf.tmp.1234", "x.conf", "notes"):
        (root / "nodes/alpha/lxc" / name).write_text("")
    reader = TreeReader(root)
    reader.look()
    assert len(list(reader.look().guests())) == 40
