"""The made-up cluster under tests/fixtures/pve: three nodes, 16 storages, 40 guests, every file that we read."""

from collections import Counter
from pathlib import Path

from holdfast.coordinator.proxmox.datacenter import DatacenterConfig
from holdfast.coordinator.proxmox.guest_config import GuestConfig, identify
from holdfast.coordinator.proxmox.ha import HaConfig
from holdfast.coordinator.proxmox.replicability import conditions, verdict
from holdfast.coordinator.proxmox.replication import ReplicationConfig
from holdfast.coordinator.proxmox.storage_config import StorageConfig
from holdfast.coordinator.proxmox.users import UserConfig

PVE = Path(__file__).parents[2] / "fixtures" / "pve"
STORAGES = StorageConfig.parse((PVE / "storage.cfg").read_bytes())


def guests() -> list[GuestConfig]:
    found = []
    for file in sorted(PVE.glob("nodes/*/*/*.conf")):
        data = file.read_bytes()
        found.append(GuestConfig.parse(*identify(file, data), data))
    return found


def test_every_file_reads_without_a_finding() -> None:
    assert STORAGES.warnings == []
    assert len(STORAGES.storages) == 16
    assert [guest.vmid for guest in guests() if guest.warnings] == []
    replication = ReplicationConfig.parse((PVE / "replication.cfg").read_bytes())
    assert (len(replication.jobs), replication.warnings) == (9, [])
    datacenter = DatacenterConfig.parse((PVE / "datacenter.cfg").read_bytes())
    assert (datacenter.warnings, datacenter.migration.network) == ([], "198.51.100.0/24")
    ha = HaConfig.parse((PVE / "ha/resources.cfg").read_bytes(), (PVE / "ha/rules.cfg").read_bytes())
    assert (set(ha.resources), ha.warnings) == ({101, 107, 200}, [])
    users = UserConfig.parse((PVE / "user.cfg").read_bytes())
    assert (users.pool_of[112], users.warnings) == ("lab/nightly", [])


def test_it_is_complete() -> None:
    found = guests()
    assert Counter(guest.type for guest in found) == {"qemu": 16, "lxc": 24}
    assert sum(guest.is_template for guest in found) == 2
    assert {guest.vmid for guest in found if guest.lock} == {109, 220}
    assert {storage.type for storage in STORAGES.storages.values()} >= {"zfspool", "rbd", "pbs", "btrfs", "esxi"}


def test_the_cluster_has_one_of_each_reason_and_condition() -> None:
    reasons, holding = Counter[str | None](), Counter[str]()
    for guest in guests():
        reasons.update(verdict(guest, d, STORAGES.storages).reason for d in guest.current.drives.values())
        holding.update(condition.reason for condition in conditions(guest, STORAGES.storages))
    assert set(reasons) == {
        *(None, "cdrom", "no disk", "replicate=0", "shared storage", "bind mount", "device"),
        *("storage type lvmthin cannot replicate", "storage type btrfs cannot replicate"),
    }
    assert set(holding) == {"local-iso", "device", "bind-mount"}
