from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from holdfast.coordinator.proxmox.storage_config import StorageConfig
from holdfast.coordinator.proxmox.storage_types import TYPES
from holdfast.coordinator.proxmox.volumes import (
    MAX_VOLUMES_PER_GUEST,
    VolumeError,
    archive,
    image_name,
    next_image_name,
    parse,
    path,
    volume_id_of_path,
)
from hypothesis import given
from hypothesis import strategies as st

Expected = tuple[str, str, int | None, str | None, int | None, bool, str | None]

NAMES: list[tuple[str, str, Expected]] = [
    ("dir", "101/vm-101-disk-0.qcow2", ("images", "vm-101-disk-0.qcow2", 101, None, None, False, "qcow2")),
    ("dir", "101/base-101-disk-0.raw", ("images", "base-101-disk-0.raw", 101, None, None, True, "raw")),
    ("dir", "101/subvol-101-disk-0.subvol", ("images", "subvol-101-disk-0.subvol", 101, None, None, False, "subvol")),
    (
        "nfs",
        "9/base-9-disk-0.qcow2/101/vm-101-disk-0.qcow2",
        ("images", "vm-101-disk-0.qcow2", 101, "base-9-disk-0.qcow2", 9, False, "qcow2"),
    ),
    ("dir", "iso/some thing.ISO", ("iso", "some thing.ISO", None, None, None, False, "raw")),
    ("dir", "iso/drivers.img", ("iso", "drivers.img", None, None, None, False, "raw")),
    ("dir", "vztmpl/debian-12.tar.zst", ("vztmpl", "debian-12.tar.zst", None, None, None, False, "raw")),
    ("dir", "vztmpl/a.tar", ("vztmpl", "a.tar", None, None, None, False, "raw")),
    ("dir", "vztmpl/a.tar.bz2", ("vztmpl", "a.tar.bz2", None, None, None, False, "raw")),
    ("dir", "rootdir/101", ("rootdir", "101", 101, None, None, False, None)),
    (
        "cephfs",
        "backup/vzdump-qemu-101-2024_03_30-21_39_30.vma.zst",
        ("backup", "vzdump-qemu-101-2024_03_30-21_39_30.vma.zst", 101, None, None, False, "raw"),
    ),
    ("dir", "backup/renamed.tgz", ("backup", "renamed.tgz", None, None, None, False, "raw")),
    ("dir", "snippets/hook.pl", ("snippets", "hook.pl", None, None, None, False, "raw")),
    ("dir", "import/a b.ova", ("import", "a b.ova", None, None, None, False, "ova")),
    ("dir", "import/a.ova/disk 1.vmdk", ("import", "a.ova/disk 1.vmdk", None, None, None, False, "ova+vmdk")),
    ("zfspool", "vm-101-disk-0", ("images", "vm-101-disk-0", 101, None, None, False, "raw")),
    ("zfspool", "subvol-102-disk-0", ("images", "subvol-102-disk-0", 102, None, None, False, "subvol")),
    ("zfspool", "basevol-102-disk-0", ("images", "basevol-102-disk-0", 102, None, None, True, "subvol")),
    (
        "zfspool",
        "base-9-disk-0/vm-101-disk-0",
        ("images", "vm-101-disk-0", 101, "base-9-disk-0", 9, False, "raw"),
    ),
    (
        "zfspool",
        "basevol-9-disk-0/subvol-101-disk-0",
        ("images", "subvol-101-disk-0", 101, "basevol-9-disk-0", 9, False, "subvol"),
    ),
    ("zfspool", "vm-101-state-before", ("images", "vm-101-state-before", 101, None, None, False, "raw")),
    ("zfs", "vm-101-cloudinit", ("images", "vm-101-cloudinit", 101, None, None, False, "raw")),
    ("rbd", "base-9-disk-0/vm-101-disk-0", ("images", "vm-101-disk-0", 101, "base-9-disk-0", 9, False, "raw")),
    ("lvm", "vm-101-disk-0", ("images", "vm-101-disk-0", 101, None, None, False, "raw")),
    ("lvm", "vm-101-disk-0.qcow2", ("images", "vm-101-disk-0.qcow2", 101, None, None, False, "qcow2")),
    ("lvmthin", "base-101-disk-0", ("images", "base-101-disk-0", 101, None, None, True, "raw")),
    ("drbd", "vm-101-disk-1", ("images", "vm-101-disk-1", 101, None, None, False, "raw")),
    ("iscsi", "0.0.1.scsi-36001405b", ("images", "scsi-36001405b", None, None, None, False, "raw")),
    ("iscsidirect", "lun3", ("images", "3", None, None, None, False, "raw")),
    (
        "pbs",
        "backup/vm/101/2024-03-30T21:39:30Z",
        ("backup", "vm/101/2024-03-30T21:39:30Z", 101, None, None, False, "pbs-vm"),
    ),
    (
        "pbs",
        "backup/host/pve1/2024-03-30T21:39:30Z",
        ("backup", "host/pve1/2024-03-30T21:39:30Z", None, None, None, False, "pbs-host"),
    ),
    (
        "pbs",
        "backup/host/999/2024-03-30T21:39:30Z",
        ("backup", "host/999/2024-03-30T21:39:30Z", None, None, None, False, "pbs-host"),
    ),
    ("esxi", "dc/store/vm/vm.vmx", ("import", "dc/store/vm/vm.vmx", 0, None, None, False, "vmx")),
    ("esxi", "dc/store/vm/vm.vmdk", ("images", "dc/store/vm/vm.vmdk", 0, None, None, False, "vmdk")),
]


@pytest.mark.parametrize(("storage_type", "volname", "expected"), NAMES)
def test_a_name_means_what_proxmox_reads_in_it(storage_type: str, volname: str, expected: Expected) -> None:
    v = parse(volname, storage_type)
    assert (v.vtype, v.name, v.vmid, v.basename, v.basevmid, v.is_base, v.format) == expected
    assert v.volname == volname


@pytest.mark.parametrize(
    ("storage_type", "volname"),
    [
        *(("dir", name) for name in ("", "101", "101/", "101/foo.qcow2", "101/vm-101-disk-0.", "x/vm-1-disk-0.raw")),
        *(("dir", name) for name in ("iso/a.iso.gz", "iso/a/b.iso", "iso/.iso", "vztmpl/a.zip.gz", "rootdir/x", "iso")),
        *(("dir", name) for name in ("backup/a.vma.xz", "backup/a.TAR", "snippets/", "snippets/a/b", "import/a.iso")),
        *(("dir", name) for name in ("vm-101-disk-0", "9/foo.raw/101/vm-101-disk-0.raw", "101/vm-101-a b.raw")),
        *(("zfspool", name) for name in ("101/vm-101-disk-0", "vm-101", "xvm-101-disk-0", "")),
        *(("lvm", name) for name in ("base-101-disk-0", "vm-101-disk/0", "vm-101-disk-0-")),
        *(("pbs", name) for name in ("backup/vm/101/now", "vm/101/2024-03-30T21:39:30Z", "backup/vm/1/1/2024")),
        *(("iscsi", name) for name in ("0.0.1", "lun1", "0.0.1.a/b")),
        *(("iscsidirect", name) for name in ("lun", "1", "lun1 ")),
        *(("esxi", name) for name in ("a/b", "a//c")),
        ("drbd", "vm-101-1"),
        ("zfspool", "vm-101-disk-0\n"),
        ("zfspool", "vm-" + "9" * 5000 + "-disk-0"),
        ("nonsense", "vm-101-disk-0"),
    ],
)
def test_what_is_no_volume_is_refused(storage_type: str, volname: str) -> None:
    with pytest.raises(VolumeError):
        parse(volname, storage_type)


@given(
    st.sampled_from(sorted(TYPES)),
    st.lists(
        st.sampled_from(["vm-", "base-", "subvol-", "1", "01", "/", "-disk-", "0", ".raw", ".qcow2", "iso/", "backup/"])
        | st.text(max_size=3),
        max_size=10,
    ).map("".join),
)
def test_the_parser_raises_nothing_but_its_own_error(storage_type: str, volname: str) -> None:
    with suppress(VolumeError):
        assert parse(volname, storage_type).volname == volname


@given(
    st.sampled_from(["dir", "btrfs", "nfs", "zfspool", "rbd", "lvm", "lvmthin"]),
    st.integers(100, 999_999_999),
    st.integers(0, 1023),
)
def test_a_rendered_name_parses_to_what_it_was_made_of(storage_type: str, vmid: int, number: int) -> None:
    for image_format in TYPES[storage_type].formats:
        volume = parse(image_name(vmid, number, image_format, storage_type), storage_type)
        assert (volume.vmid, volume.format, volume.is_base) == (vmid, image_format, False)
        assert f"-disk-{number}" in volume.name


STORAGES = StorageConfig.parse(b"""
dir: local
\tpath /var/lib/vz

dir: moved
\tpath /srv/moved
\tcontent-dirs iso=discs,images=disks

nfs: nas
\tserver 10.0.0.9
\texport /e

btrfs: tree
\tpath /srv/tree

zfspool: local-zfs
\tpool rpool/data

zfspool: mounted
\tpool tank/vms
\tmountpoint /vms

lvmthin: thin
\tvgname pve
\tthinpool data

lvm: lvm
\tvgname vg1

rbd: ceph
\tpool vms
\tnamespace a

iscsidirect: lun
\tportal 10.0.0.8
\ttarget iqn.2003-01.a:b

iscsi: san
\tportal 10.0.0.8
\ttarget iqn.2003-01.a:b

pbs: backup
\tserver 10.0.0.7
\tdatastore d
""").storages


@pytest.mark.parametrize(
    ("volume_id", "where"),
    [
        ("local:101/vm-101-disk-0.qcow2", "/var/lib/vz/images/101/vm-101-disk-0.qcow2"),
        ("local:iso/a.iso", "/var/lib/vz/template/iso/a.iso"),
        ("local:vztmpl/a.tar.gz", "/var/lib/vz/template/cache/a.tar.gz"),
        ("local:backup/vzdump-lxc-1-x.tar", "/var/lib/vz/dump/vzdump-lxc-1-x.tar"),
        ("local:snippets/a", "/var/lib/vz/snippets/a"),
        ("local:import/a.ova", "/var/lib/vz/import/a.ova"),
        ("local:rootdir/101", "/var/lib/vz/private/101"),
        ("moved:iso/a.iso", "/srv/moved/discs/a.iso"),
        ("moved:101/vm-101-disk-0.raw", "/srv/moved/disks/101/vm-101-disk-0.raw"),
        ("nas:iso/a.img", "/mnt/pve/nas/template/iso/a.img"),
        ("tree:101/vm-101-disk-0.raw", "/srv/tree/images/101/vm-101-disk-0/disk.raw"),
        ("tree:101/subvol-101-disk-0.subvol", "/srv/tree/images/101/subvol-101-disk-0.subvol"),
        ("local-zfs:vm-101-disk-0", "/dev/zvol/rpool/data/vm-101-disk-0"),
        ("local-zfs:subvol-101-disk-0", "/rpool/data/subvol-101-disk-0"),
        ("mounted:subvol-101-disk-0", "/vms/subvol-101-disk-0"),
        ("thin:vm-101-disk-0", "/dev/pve/vm-101-disk-0"),
        ("lvm:vm-101-disk-0", "/dev/vg1/vm-101-disk-0"),
    ],
)
def test_a_volume_has_a_path_and_the_path_the_volume(volume_id: str, where: str) -> None:
    storage_id, volname = volume_id.split(":", 1)
    storage = STORAGES[storage_id]
    assert path(parse(volname, storage.type), storage) == where
    assert volume_id_of_path(where, STORAGES.values()) == volume_id


def test_a_clone_lies_where_it_would_without_its_base() -> None:
    clone = parse("9/base-9-disk-0.qcow2/101/vm-101-disk-0.qcow2", "dir")
    assert path(clone, STORAGES["local"]) == "/var/lib/vz/images/101/vm-101-disk-0.qcow2"
    clone = parse("base-9-disk-0/vm-101-disk-0", "zfspool")
    assert path(clone, STORAGES["local-zfs"]) == "/dev/zvol/rpool/data/vm-101-disk-0"


def test_devices_and_urls() -> None:
    assert path(parse("vm-101-disk-0", "rbd"), STORAGES["ceph"]) == "rbd:vms/a/vm-101-disk-0"
    assert path(parse("lun3", "iscsidirect"), STORAGES["lun"]) == "iscsi://10.0.0.8/iqn.2003-01.a:b/3"
    assert path(parse("0.0.1.scsi-3", "iscsi"), STORAGES["san"]) == "/dev/disk/by-id/scsi-3"
    with pytest.raises(VolumeError):
        path(parse("backup/vm/101/2024-03-30T21:39:30Z", "pbs"), STORAGES["backup"])


@pytest.mark.parametrize(
    "where",
    [
        *("/elsewhere/a.iso", "/var/lib/vz/template/iso/a.dvd", "/var/lib/vz/images/x/vm-1-disk-0.raw", "a", "none:x"),
        *("/var/lib/vz/template/iso", "/dev/zvol/rpool/data", "/dev/zvol/other/vm-101-disk-0", "local:nonsense", ""),
        *("/var/lib/vz/import/a b.ova", "/var/lib/vz/template/cache/a.zip", "/"),
        # formats that are not listed on this type of storage, and a file where btrfs has a directory
        *("/mnt/pve/nas/images/101/subvol-101-disk-0.subvol", "/srv/tree/images/101/vm-101-disk-0.raw"),
    ],
)
def test_a_path_of_no_storage_is_refused(where: str) -> None:
    with pytest.raises(VolumeError):
        volume_id_of_path(where, STORAGES.values())


def test_slashes_do_not_matter_and_a_volume_id_is_its_own() -> None:
    assert volume_id_of_path("//var/lib/vz//private/101/", STORAGES.values()) == "local:rootdir/101"
    assert volume_id_of_path("local:iso/a.iso", STORAGES.values()) == "local:iso/a.iso"


def test_the_lowest_free_number_is_taken() -> None:
    taken = ["vm-101-disk-0", "base-9-disk-0/vm-101-disk-2", "vm-1101-disk-1", "vm-101-disk-03"]
    assert next_image_name(101, "raw", "zfspool", taken) == "vm-101-disk-1"
    assert next_image_name(101, "subvol", "zfspool", ["vm-101-disk-0"]) == "subvol-101-disk-1"
    assert next_image_name(101, "qcow2", "dir", ["101/vm-101-disk-0.raw"]) == "101/vm-101-disk-1.qcow2"


def test_without_subvols_a_number_counts_for_its_extension_only() -> None:
    assert next_image_name(101, "qcow2", "nfs", ["101/vm-101-disk-0.raw"]) == "101/vm-101-disk-0.qcow2"
    assert next_image_name(101, "raw", "nfs", ["101/vm-101-disk-0.raw"]) == "101/vm-101-disk-1.raw"


def test_a_guest_has_at_most_1024_volumes() -> None:
    taken = [f"vm-101-disk-{n}" for n in range(MAX_VOLUMES_PER_GUEST)]
    assert next_image_name(101, "raw", "zfspool", taken[:-1]) == "vm-101-disk-1023"
    with pytest.raises(VolumeError):
        next_image_name(101, "raw", "zfspool", taken)


def test_a_backup_archive_tells_its_guest_and_time() -> None:
    found = archive("vzdump-lxc-101-2024_07_01-02_03_04.tar.zst", ZoneInfo("Europe/Berlin"))
    assert (found.guest_type, found.format, found.compression, found.vmid) == ("lxc", "tar", "zst", 101)
    assert found.time == datetime(2024, 7, 1, 0, 3, 4, tzinfo=UTC)
    assert archive("vzdump-qemu-101-2024_07_01-02_03_04.tgz", UTC).compression == "gz"
    assert archive("vzdump-qemu-101-2024_07_01-02_03_04.vma", UTC).compression is None


def test_a_renamed_archive_tells_less() -> None:
    found = archive("vzdump-qemu-kept-for-auditors.vma.gz", UTC)
    assert (found.vmid, found.time, found.format) == (None, None, "vma")
    for name in ("foo.tar", "vzdump-qemu-101-2024_13_01-02_03_04.vma", "vzdump-kvm-1-x.tar", "vzdump-qemu-1.tar.xz"):
        with pytest.raises(VolumeError):
            archive(name, UTC)
