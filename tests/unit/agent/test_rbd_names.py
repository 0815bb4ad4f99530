from pathlib import Path

import pytest
from holdfast.agent.storage.rbd import names
from holdfast.agent.storage.rbd.access import Access
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.copies import dataset


def test_a_dataset_names_storage_and_image() -> None:
    assert names.storeid_of("rbd:ceph-a/vm-101-disk-0") == names.storeid_of("rbd:ceph-a") == "ceph-a"
    assert names.image_of("rbd:ceph-a/vm-101-disk-0") == "vm-101-disk-0"
    assert names.split_snapshot("rbd:ceph-a/vm-101-disk-0@holdfast-1-2") == ("vm-101-disk-0", "holdfast-1-2")


def test_a_copy_lies_in_a_folder_that_rbd_does_not_have() -> None:
    copy = names.dataset("ceph-a", "holdfast.clones.101-look-vm-101-disk-0")
    assert copy == dataset(101, "look", "rbd:ceph-a/vm-101-disk-0")
    assert names.image_of(copy) == "holdfast.clones.101-look-vm-101-disk-0"
    assert names.dataset("ceph-a", "vm-101-disk-0") == "rbd:ceph-a/vm-101-disk-0"


@pytest.mark.parametrize(
    "name", ["tank/vm-101-disk-0", "rbd:a", "rbd:/x", "rbd:a/b/c", "rbd:a/holdfast/clones/b/c", "rbd:a/-x", "rbd:a/x y"]
)
def test_what_is_no_image_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"not an image|not a dataset"):
        names.image_of(name)


def test_a_snapshot_of_somebody_else_is_never_named_to_a_command() -> None:
    with pytest.raises(ValueError, match="not a snapshot of Holdfast"):
        names.split_snapshot("rbd:ceph-a/vm-101-disk-0@before-upgrade")


def test_what_was_set_aside_twice_does_not_grow_its_name_twice() -> None:
    once = names.aside("vm-101-disk-0", 101, 3, 1)
    assert once == "holdfast.aside.101-e3-1-vm-101-disk-0"
    assert names.aside(once, 101, 4, 1).count("holdfast.aside.") == 1


def ceph(**properties: str) -> Storage:
    return Storage(type="rbd", shared=True, properties=properties)


def test_the_key_is_the_nodes_own_file_and_never_in_an_argv(tmp_path: Path) -> None:
    (tmp_path / "ceph-a.keyring").write_text("[client.holdfast]\n\tkey = AQBsecret==\n")
    storage = ceph(pool="vms", namespace="shop", monhost="10.0.0.1 10.0.0.2;10.0.0.3", username="holdfast")
    argv = Access.of("ceph-a", storage, tmp_path, Path("/nonexistent"), 15).argv
    assert "AQBsecret" not in " ".join(argv)
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    assert given["--keyring"] == str(tmp_path / "ceph-a.keyring")
    assert given["--mon_host"] == "10.0.0.1,10.0.0.2,10.0.0.3"
    assert (given["--id"], given["--pool"], given["--namespace"]) == ("holdfast", "vms", "shop")
    assert given["--rados_osd_op_timeout"] == given["--rados_mon_op_timeout"] == "15"


def test_a_storage_without_mons_is_reached_as_the_nodes_own_configuration_says(tmp_path: Path) -> None:
    conf = tmp_path / "ceph.conf"
    conf.touch()
    access = Access.of("local", ceph(), tmp_path, conf, 15)
    assert access.conf == conf
    assert (access.pool, access.user) == ("rbd", "admin")
    own = tmp_path / "local.conf"
    own.touch()
    assert Access.of("local", ceph(), tmp_path, conf, 15).conf == own


@pytest.mark.parametrize("name", ["-x", "a b", "a/b", "a@b", ""])
def test_a_pool_whose_name_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        ceph(pool=name)
