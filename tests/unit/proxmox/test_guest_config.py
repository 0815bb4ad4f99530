import hashlib
from pathlib import PurePath

import pytest
from holdfast.coordinator.proxmox.drives import GuestType, parse
from holdfast.coordinator.proxmox.guest_config import GuestConfig, GuestFileError, identify
from holdfast.coordinator.proxmox.values import ValueRefused, format_size, size
from hypothesis import given
from hypothesis import strategies as st


def vm(text: str) -> GuestConfig:
    return GuestConfig.parse("qemu", 101, text.encode())


def container(text: str) -> GuestConfig:
    return GuestConfig.parse("lxc", 101, text.encode())


VM = """\
#A line%3A first
#second
agent: 1
boot: order=scsi0;net0
cores: 2
efidisk0: local-zfs:vm-101-disk-1,efitype=4m,size=1M
ide2: local:iso/debian.iso,media=cdrom,size=600M
lock: backup
name: web
parent: before
scsi0: local-zfs:vm-101-disk-0,discard=on,iothread=1,replicate=0,size=32G
scsi1: /dev/disk/by-id/ata-X,backup=0
tags: prod;web
tpmstate0: local-zfs:vm-101-disk-2,size=4M,version=v2.0
unused0: local-zfs:vm-101-disk-9

[PENDING]
cores: 4
delete: ide2

[special:cloudinit]
name: earlier
cipassword: anything goes

[before]
#taken by hand
name: web
scsi0: local-zfs:vm-101-disk-0,size=16G
snaptime: 1700000000
vmstate: local-zfs:vm-101-state-before
"""


def test_a_vms_file_is_taken_apart() -> None:
    config = vm(VM)
    assert (config.name, config.lock, config.parent, config.tags) == ("web", "backup", "before", ("prod", "web"))
    assert config.current.description == "A line: first\nsecond"
    assert list(config.current.drives) == ["efidisk0", "ide2", "scsi0", "scsi1", "tpmstate0", "unused0"]
    assert config.pending.options == {"cores": "4", "delete": "ide2"}
    assert config.special["cloudinit"].options["cipassword"] == "anything goes"
    before = config.snapshots["before"]
    assert (before.description, before.options["snaptime"]) == ("taken by hand", "1700000000")
    assert before.drives["vmstate"].source == "local-zfs:vm-101-state-before"
    assert config.warnings == []
    assert config.digest == hashlib.sha1(VM.encode()).hexdigest()


def test_a_disk_says_what_its_property_string_says() -> None:
    disk = vm(VM).current.drives["scsi0"]
    assert (disk.kind, disk.storage, disk.volname) == ("volume", "local-zfs", "vm-101-disk-0")
    assert (disk.size, disk.replicate, disk.backup, disk.shared) == (32 << 30, False, True, False)
    assert disk.options == {"discard": "on", "iothread": True}
    device = vm(VM).current.drives["scsi1"]
    assert (device.kind, device.storage, device.backup) == ("device", None, False)


CONTAINER = """\
arch: amd64
dev0: /dev/ttyUSB0,mode=0660
hostname: files
lxc.idmap: u 0 100000 65536
lxc.cgroup2.devices.allow = c 10:200 rwm
mp0: local-zfs:subvol-101-disk-1,mp=/data,backup=1,size=8G
mp1: /srv/shared,mp=/shared,shared=1
mp2: /dev/sdb1,mp=/raw
rootfs: volume=local-zfs:subvol-101-disk-0,size=4G
template: 1

[pve:pending]
memory: 1024

[before]
rootfs: local-zfs:subvol-101-disk-0,size=2G
"""


def test_a_containers_file_is_taken_apart() -> None:
    config = container(CONTAINER)
    assert (config.name, config.is_template) == ("files", True)
    assert {k: d.kind for k, d in config.current.drives.items()} == {
        "mp0": "volume",
        "mp1": "bind",
        "mp2": "device",
        "rootfs": "volume",
    }
    assert config.current.drives["mp0"].backup
    assert not config.current.drives["mp1"].backup
    assert config.current.drives["rootfs"].backup
    assert config.current.drives["mp1"].shared
    assert config.current.lxc == [("lxc.idmap", "u 0 100000 65536"), ("lxc.cgroup2.devices.allow", "c 10:200 rwm")]
    assert config.pending.options == {"memory": "1024"}
    assert config.snapshots["before"].drives["rootfs"].size == 2 << 30
    assert list(config.devices()) == [("dev0", "/dev/ttyUSB0,mode=0660")]
    assert config.warnings == []


def test_the_last_of_duplicate_keys_counts() -> None:
    assert vm("name: a\nname: b\n").name == "b"


def test_an_unreadable_disk_of_a_vm_leaves_the_earlier_one() -> None:
    config = vm("scsi0: s1:vm-101-disk-0\nscsi0: s1:vm-101-disk-1,colour=blue\n")
    assert config.current.drives["scsi0"].volname == "vm-101-disk-0"
    assert [w.line for w in config.warnings] == [2]


def test_a_disk_whose_options_contradict_each_other_takes_the_earlier_one_with_it() -> None:
    config = vm("scsi0: s1:vm-101-disk-0\nscsi0: s1:vm-101-disk-1,mbps=3,mbps_rd=1\n")
    assert config.current.drives == {}
    assert config.current.options["scsi0"].startswith("s1:vm-101-disk-1")
    assert [w.line for w in config.warnings] == [2]


def test_an_unreadable_disk_of_a_container_is_kept_as_text_only() -> None:
    config = container("rootfs: s1:subvol-101-disk-0\nrootfs: s1:subvol-101-disk-1,colour=blue\n")
    assert config.current.drives == {}
    assert config.current.options["rootfs"].endswith("blue")


def test_cdrom_is_an_old_name_of_ide2() -> None:
    assert list(vm("cdrom: none,media=cdrom\n").current.drives) == ["ide2"]


def test_lines_under_an_unknown_section_go_nowhere() -> None:
    config = vm("name: a\n[x]\nname: b\n[special:new]\nname: c\n[ok]\nname: d\n")
    assert config.name == "a"
    assert config.snapshots["ok"].options == {"name": "d"}
    assert [w.line for w in config.warnings] == [2, 4]


def test_a_container_knows_no_unknown_sections() -> None:
    config = container("hostname: a\n[x]\nhostname: b\n")
    assert config.name == "b"
    assert [w.line for w in config.warnings] == [2]


def test_snapshots_of_one_name_are_the_last_of_them() -> None:
    config = vm("[snap]\nname: a\n[snap]\ncores: 1\n")
    assert config.snapshots["snap"].options == {"cores": "1"}
    assert [w.line for w in config.warnings] == [3]


def test_delete_belongs_to_what_is_pending() -> None:
    config = vm("delete: x\n")
    assert "delete" not in config.current.options
    assert config.warnings


def test_a_snapshots_state_is_not_the_guests() -> None:
    config = vm("snapstate: delete\n[snap]\nsnapstate: prepare\n")
    assert "snapstate" not in config.current.options
    assert config.snapshots["snap"].options["snapstate"] == "prepare"


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        ("scsi0", "s1:vm-101-disk-0,size=32G,cache=writeback,aio=io_uring,ssd=1,queues=4,wwn=0x5000c500a0b1c2d3"),
        ("scsi30", "file=s1:vm-101-disk-0"),
        ("virtio15", "volume=s1:vm-101-disk-0,mbps=10,mbps_max=20,bps_max_length=3"),
        ("ide0", "none,media=cdrom"),
        ("ide2", "cdrom,media=cdrom"),
        ("ide3", "s1:vm-101-cloudinit,media=cdrom"),
        ("sata5", "/dev/sda,serial=a%20b"),
        ("scsi0", "/srv/a.raw"),
        ("ide2", "/srv/a.iso,media=cdrom"),
        ("efidisk0", "s1:vm-101-disk-0,pre-enrolled-keys=1,ms-cert=2023w"),
        ("unused255", "s1:vm-101-disk-0"),
        ("scsi0", "s1:vm-101-disk-0,backup=no,replicate=off,shared=yes"),
    ],
)
def test_slots_of_a_vm(slot: str, value: str) -> None:
    assert parse("qemu", slot, value).slot == slot


@pytest.mark.parametrize(
    ("guest", "slot", "value"),
    [
        ("qemu", "scsi0", "s1:vm-101-disk-0,size=lots"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,s1:vm-101-disk-1"),
        ("qemu", "scsi0", "size=32G"),
        ("qemu", "scsi0", "vm-101-disk-0"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,cache=maybe"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,backup=perhaps"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,mbps_max=3"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,mbps=3,mbps_rd=1"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,bps=3,mbps=1"),
        ("qemu", "ide2", "s1:iso/a.iso,media=cdrom,heads=3"),
        ("qemu", "virtio0", "s1:iso/a.iso,media=cdrom"),
        ("qemu", "virtio0", "s1:vm-101-disk-0,ssd=1"),
        ("qemu", "tpmstate0", "s1:vm-101-disk-0,format=raw"),
        ("qemu", "unused0", "/dev/sda"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,wwn=0x5000c500a0b1c2d3e"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,vendor=ninechars"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,product=seventeen-letters"),
        ("qemu", "ide0", "s1:vm-101-disk-0,serial=" + 61 * "a"),
        ("qemu", "ide0", "s1:vm-101-disk-0,model=" + 121 * "a"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,bps=0,mbps=0"),
        ("qemu", "scsi0", "s1:vm-101-disk-0,bps=0,mbps_rd=1"),
        ("lxc", "rootfs", "s1:subvol-101-disk-0,mountoptions=noatime,mountoptions=nodev"),
        ("lxc", "rootfs", "s1:subvol-101-disk-0,mountoptions=sync"),
        ("lxc", "mp0", "s1:subvol-101-disk-0"),
        ("lxc", "mp0", "/srv/../etc,mp=/etc"),
        ("lxc", "rootfs", "s1:subvol-101-disk-0,mp=/"),
        ("lxc", "rootfs", ""),
    ],
)
def test_what_proxmox_refuses_in_a_slot(guest: GuestType, slot: str, value: str) -> None:
    with pytest.raises(ValueRefused):
        parse(guest, slot, value)


@pytest.mark.parametrize("key", ["ide4", "scsi31", "virtio16", "sata6", "efidisk1", "unused256", "scsi01", "mp0"])
def test_slots_beyond_the_limit_are_plain_options(key: str) -> None:
    assert vm(f"{key}: s1:vm-101-disk-0\n").current.drives == {}


@pytest.mark.parametrize(
    ("text", "count"), [("32G", 32 << 30), ("0.5T", 1 << 39), ("1.5K", 1536), ("4096", 4096), ("1M", 1 << 20)]
)
def test_sizes_are_powers_of_1024(text: str, count: int) -> None:
    assert size(text) == count


@given(st.integers(0, 2**60))
def test_a_size_written_is_the_size_read(count: int) -> None:
    assert size(format_size(count)) == count


def test_a_file_tells_its_guest() -> None:
    assert identify(PurePath("/etc/pve/nodes/a/lxc/101.conf"), b"") == ("lxc", 101)
    assert identify(PurePath("nodes/a/qemu-server/102.conf"), b"") == ("qemu", 102)
    assert identify(PurePath("103.conf"), b"arch: amd64\nrootfs: s1:x\n") == ("lxc", 103)
    assert identify(PurePath("104.conf"), b"name: a\n") == ("qemu", 104)
    with pytest.raises(GuestFileError):
        identify(PurePath("storage.cfg"), b"")


LINES = st.lists(
    st.sampled_from([*VM.splitlines(), *CONTAINER.splitlines(), "[x]", "[PENDING]", "[special:fleecing]", " name: a"])
    | st.text(max_size=16),
    max_size=24,
).map("\n".join)


@given(st.sampled_from(["qemu", "lxc"]), LINES)
def test_rendering_gives_the_bytes_back_and_nothing_is_raised(guest: GuestType, text: str) -> None:
    data = text.encode()
    config = GuestConfig.parse(guest, 101, data)
    assert config.render() == data
    assert all(0 < warning.line <= len(config.lines) for warning in config.warnings)


@given(st.sampled_from(["qemu", "lxc"]), st.binary())
def test_any_bytes_survive(guest: GuestType, data: bytes) -> None:
    assert GuestConfig.parse(guest, 101, data).render() == data
