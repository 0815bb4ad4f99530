import pytest
from holdfast.coordinator.proxmox.guest_config import GuestConfig
from holdfast.coordinator.proxmox.replicability import conditions, replicated_volumes, verdict
from holdfast.coordinator.proxmox.storage_config import StorageConfig

STORAGES = StorageConfig.parse(b"""
zfspool: zfs
\tpool rpool/data

lvmthin: thin
\tvgname pve
\tthinpool data

nfs: nas
\tserver 10.0.0.9
\texport /e
\tcontent images,iso

linstor: own
\tx y
""").storages


def vm(text: str) -> GuestConfig:
    return GuestConfig.parse("qemu", 101, text.encode())


def container(text: str) -> GuestConfig:
    return GuestConfig.parse("lxc", 101, text.encode())


def reason(config: GuestConfig) -> str | None:
    (drive,) = config.current.drives.values()
    return verdict(config, drive, STORAGES).reason


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("scsi0: zfs:vm-101-disk-0", None),
        ("scsi0: zfs:base-9-disk-0/vm-101-disk-0", None),
        ("efidisk0: zfs:vm-101-disk-0", None),
        ("unused0: zfs:vm-101-disk-0", None),
        ("scsi0: zfs:vm-101-disk-0,replicate=0", "replicate=0"),
        ("ide2: none,media=cdrom", "no disk"),
        ("ide2: local:iso/a.iso,media=cdrom", "cdrom"),
        ("ide2: zfs:vm-101-cloudinit,media=cdrom", "cdrom"),
        ("scsi0: zfs:vm-102-disk-0", "not owned by this guest"),
        ("scsi0: thin:vm-101-disk-0", "storage type lvmthin cannot replicate"),
        ("scsi0: local:101/vm-101-disk-0.qcow2", "storage type dir cannot replicate"),
        ("scsi0: nas:101/vm-101-disk-0.qcow2", "shared storage"),
        ("scsi0: gone:vm-101-disk-0", "storage 'gone' does not exist"),
        ("scsi0: own:vm-101-disk-0", "storage type 'linstor' is not known"),
        ("scsi0: /dev/sda", "device"),
        ("scsi0: /srv/a.raw", "file outside of any storage"),
        ("scsi0: zfs:strange", "'strange' is no volume name of storage type 'zfspool'"),
        ("scsi0: local:iso/a.iso", "owned by no guest"),
    ],
)
def test_why_a_disk_of_a_vm_is_not_replicated(line: str, expected: str | None) -> None:
    assert reason(vm(line)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rootfs: zfs:subvol-101-disk-0", None),
        ("mp0: zfs:subvol-101-disk-1,mp=/a,replicate=0", "replicate=0"),
        ("mp0: /srv,mp=/srv", "bind mount"),
        ("mp0: /dev/sdb1,mp=/srv", "device"),
    ],
)
def test_why_a_disk_of_a_container_is_not_replicated(line: str, expected: str | None) -> None:
    assert reason(container(line)) == expected


def test_without_storage_cfg_a_storage_is_taken_to_replicate() -> None:
    config = vm("scsi0: any:vm-101-disk-0\nscsi1: any:101/vm-101-disk-0.qcow2\n")
    reasons = [verdict(config, drive, None).reason for drive in config.current.drives.values()]
    assert reasons == [None, "storage type dir cannot replicate"]


def test_a_snapshot_that_permits_it_has_the_volume_replicated() -> None:
    text = "scsi0: zfs:vm-101-disk-0,replicate=0\n[snap]\nscsi0: zfs:vm-101-disk-0\nvmstate: zfs:vm-101-state-snap\n"
    assert replicated_volumes(vm(text), STORAGES) == ["zfs:vm-101-disk-0", "zfs:vm-101-state-snap"]


def test_volumes_that_only_a_snapshot_names_are_replicated_too() -> None:
    text = "scsi0: zfs:vm-101-disk-0\n[snap]\nscsi1: zfs:vm-101-disk-1\n"
    assert replicated_volumes(vm(text), STORAGES) == ["zfs:vm-101-disk-0", "zfs:vm-101-disk-1"]


def test_a_disk_that_a_vm_is_about_to_get_is_replicated_and_a_containers_is_not() -> None:
    text = "scsi0: zfs:vm-101-disk-0\n[PENDING]\nscsi1: zfs:vm-101-disk-1\n"
    assert replicated_volumes(vm(text), STORAGES) == ["zfs:vm-101-disk-0", "zfs:vm-101-disk-1"]
    text = "rootfs: zfs:subvol-101-disk-0\n[pve:pending]\nmp0: zfs:subvol-101-disk-1,mp=/a\n"
    assert replicated_volumes(container(text), STORAGES) == ["zfs:subvol-101-disk-0"]


def test_what_cannot_move_with_its_guest_is_a_condition() -> None:
    config = vm(
        "ide2: local:iso/a.iso,media=cdrom\nide0: nas:iso/a.iso,media=cdrom\nscsi0: zfs:vm-101-disk-0\n"
        "scsi1: /dev/sda\nscsi2: /dev/sdb,shared=1\nhostpci0: 01:00,pcie=1\nhostpci1: mapping=gpu\nusb0: SPICE\n"
        "serial0: socket\nserial1: /dev/ttyS0\nparallel0: /dev/parport0\nide1: zfs:vm-101-cloudinit,media=cdrom\n"
    )
    assert [(c.slot, c.reason) for c in conditions(config, STORAGES)] == [
        ("ide2", "local-iso"),
        ("scsi1", "device"),
        ("hostpci0", "device"),
        ("serial1", "device"),
        ("parallel0", "device"),
    ]


def test_bind_mounts_and_devices_of_a_container_are_conditions() -> None:
    config = container(
        "rootfs: zfs:subvol-101-disk-0\nmp0: /srv,mp=/srv\nmp1: /nas,mp=/nas,shared=1\ndev0: /dev/ttyUSB0\n"
    )
    assert [(c.slot, c.reason) for c in conditions(config, STORAGES)] == [("mp0", "bind-mount"), ("dev0", "device")]
