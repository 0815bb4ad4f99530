import pytest
from holdfast.coordinator.planning.origins import origin, snapshot_names

DEFINITION = """\
cores: 2
parent: before_upgrade

[PENDING]
cores: 4

[before_upgrade]
cores: 2
snaptime: 1767312000

[autodaily260102030405]
cores: 2
"""


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("holdfast-1-42", "holdfast"),
        ("holdfast-auto-1-42", "holdfast"),
        ("__replicate_101-0_1767312000__", "Proxmox replication (pvesr)"),
        ("vzdump", "Proxmox backup (vzdump)"),
        ("autosnap_2026-01-02_00:00:01_hourly", "sanoid"),
        ("zrepl_20260102_030405_000", "zrepl"),
        ("offsite1-20260102030405", "zfs-autobackup"),
        ("autodaily260102030405", "cv4pve-autosnap"),
        ("zfs-auto-snap_hourly-2026-01-02-0317", "zfs-auto-snapshot"),
        ("before_upgrade", "qm snapshot"),
        ("mine", "by hand, or another tool"),
        ("holdfast-mine", "by hand, or another tool"),
    ],
)
def test_a_snapshots_origin_is_told_by_its_name(name: str, tool: str) -> None:
    assert origin(name, snapshot_names(DEFINITION)) == tool


def test_of_a_container_proxmox_s_own_command_is_pct() -> None:
    assert origin("before_upgrade", snapshot_names(DEFINITION), "lxc") == "pct snapshot"


def test_what_is_pending_is_no_snapshot() -> None:
    assert snapshot_names(DEFINITION) == {"before_upgrade", "autodaily260102030405"}
