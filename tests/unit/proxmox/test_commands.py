import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from holdfast.coordinator.cli.bwlimit import bwlimit
from holdfast.coordinator.cli.calendar import calendar
from holdfast.coordinator.cli.guest import guest
from holdfast.coordinator.cli.pvesr import pvesr
from holdfast.coordinator.cli.retention import retention
from holdfast.coordinator.cli.storage import storage
from holdfast.coordinator.cli.volume import volume

STORAGE_CFG = (
    "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\n"
    "zfspool: tank\n\tpool tank/vms\n\tsparse\n\tnodes b,a\n\tbwlimit migration=100\n\tcolour blue\n\nlvm: x\n"
)


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    file = tmp_path / "storage.cfg"
    file.write_text(STORAGE_CFG)
    return file


def run(command: click.Command, *args: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], input=stdin)


def answer(command: click.Command, *args: str | Path, stdin: str | None = None) -> Any:
    result = run(command, *args, "-o", "json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_storage_check_tells_what_proxmox_makes_of_a_file(cfg: Path) -> None:
    found = answer(storage, "check", cfg)
    assert found["sections"] == [
        {
            "id": "local",
            "type": "dir",
            "line": 1,
            "properties": {"path": "/var/lib/vz"},
            "content": ["iso"],
            "shared": False,
            "nodes": None,
            "disabled": False,
        },
        {
            "id": "tank",
            "type": "zfspool",
            "line": 5,
            "properties": {"pool": "tank/vms", "sparse": True, "bwlimit": "migration=100"},
            "content": ["images", "rootdir"],
            "shared": False,
            "nodes": ["a", "b"],
            "disabled": False,
        },
    ]
    assert [warning["line"] for warning in found["warnings"]] == [10, 12]
    assert [(error["line"], error["id"]) for error in found["errors"]] == [(12, "x")]


def test_storage_check_fails_on_findings_only_when_it_is_strict(cfg: Path) -> None:
    assert run(storage, "check", cfg).exit_code == 0
    assert run(storage, "check", cfg, "--strict").exit_code == 1
    assert run(storage, "check", cfg.parent / "gone.cfg").exit_code == 1


def test_storage_check_prints_odd_bytes_as_text(tmp_path: Path) -> None:
    file = tmp_path / "storage.cfg"
    file.write_bytes(b"odd \xe4\xc3\xb6 line\n")
    assert run(storage, "check", file).exit_code == 0
    found = answer(storage, "check", file)
    assert "odd \ufffd\u00f6 line" in found["warnings"][0]["message"]


def test_volume_parse_tells_what_a_name_means() -> None:
    assert answer(volume, "parse", "base-9-disk-0/vm-101-disk-0", "--type", "zfspool") == {
        "vtype": "images",
        "name": "vm-101-disk-0",
        "vmid": 101,
        "basename": "base-9-disk-0",
        "basevmid": 9,
        "is_base": False,
        "format": "raw",
    }
    assert run(volume, "parse", "nonsense", "--type", "zfspool", "-o", "json").exit_code == 1
    assert run(volume, "parse", "vm-101-disk-0", "--type", "nonsense").exit_code == 2


def test_volume_path_prints_the_id(cfg: Path) -> None:
    result = run(volume, "path", "/var/lib/vz/template/iso/a.iso", "--storage-file", cfg)
    assert (result.exit_code, result.stdout) == (0, "local:iso/a.iso\n")
    assert answer(volume, "path", "/tank/vms/subvol-1-disk-0", "--storage-file", cfg) == {
        "volid": "tank:subvol-1-disk-0"
    }
    assert run(volume, "path", "/elsewhere", "--storage-file", cfg).exit_code == 1


def test_volume_path_follows_links(cfg: Path) -> None:
    link = cfg.parent / "link.iso"
    link.symlink_to("/var/lib/vz/template/iso/a.iso")
    assert run(volume, "path", link, "--storage-file", cfg).stdout == "local:iso/a.iso\n"


def test_guest_show_finds_storage_cfg_above_the_guests_file(cfg: Path) -> None:
    file = cfg.parent / "nodes/a/qemu-server/101.conf"
    file.parent.mkdir(parents=True)
    file.write_text(
        "name: web\nscsi0: tank:vm-101-disk-0,size=8G\nide2: local:iso/a.iso,media=cdrom\n[snap]\nsnaptime: 7\n"
    )
    found = answer(guest, "show", file)
    assert (found["vmid"], found["type"], found["name"], found["storages_known"]) == (101, "qemu", "web", True)
    assert [(d["slot"], d["size"], d["replicated"], d["reason"]) for d in found["disks"]] == [
        ("scsi0", 8 << 30, True, None),
        ("ide2", None, False, "cdrom"),
    ]
    assert found["conditions"][0]["reason"] == "local-iso"
    assert found["snapshots"][0] == {"name": "snap", "parent": None, "time": 7, "vmstate": None, "disks": {}}
    assert "yes" in run(guest, "show", file).stdout


def test_guest_show_finds_storage_cfg_by_proxmoxs_links_too(cfg: Path) -> None:
    file = cfg.parent / "nodes/a/lxc/101.conf"
    file.parent.mkdir(parents=True)
    file.write_text("rootfs: tank:subvol-101-disk-0\n")
    (cfg.parent / "lxc").symlink_to(file.parent)
    (cfg.parent / "local").symlink_to(cfg.parent / "nodes/a")
    for link in ("lxc/101.conf", "local/lxc/101.conf"):
        assert answer(guest, "show", cfg.parent / link)["storages_known"], link


def test_guest_show_says_when_storages_are_not_known(tmp_path: Path) -> None:
    file = tmp_path / "101.conf"
    file.write_text("rootfs: tank:subvol-101-disk-0,size=8G\n")
    assert answer(guest, "show", file)["storages_known"] is False
    assert "--storage-file" in run(guest, "show", file).output
    assert run(guest, "show", tmp_path / "storage.cfg").exit_code == 1


def test_calendar_lists_times_on_the_zones_clock() -> None:
    args = ("--after", "2024-10-26T12:00:00+02:00", "--count", "2", "--tz", "Europe/Berlin")
    assert answer(calendar, "2:30", *args) == ["2024-10-27T02:30:00+02:00", "2024-10-28T02:30:00+01:00"]
    assert answer(calendar, "2020-1-1", *args) == []
    assert run(calendar, "whenever").exit_code == 1
    assert run(calendar, "5", "--tz", "Mars").exit_code == 2
    assert run(calendar, "5", "--after", "soon").exit_code == 2
    assert run(calendar, "*/5").exit_code == 0


def test_retention_test_judges_each_line() -> None:
    stdin = "2024-05-02T10:00:00+02:00 b\n\n2024-05-02T09:00:00+02:00 a name\n2024-05-01T09:00:00Z\n"
    assert answer(retention, "test", "--keep", "daily=2", "--tz", "Europe/Berlin", stdin=stdin) == [
        {"time": "2024-05-02T10:00:00+02:00", "name": "b", "keep": True, "rule": "daily"},
        {"time": "2024-05-02T09:00:00+02:00", "name": "a name", "keep": False, "rule": None},
        {"time": "2024-05-01T09:00:00Z", "name": "", "keep": True, "rule": "daily"},
    ]
    assert "remove" in run(retention, "test", "--keep", "1d", stdin=stdin).stdout
    assert run(retention, "test", "--keep", "daily", stdin=stdin).exit_code == 1
    failed = run(retention, "test", "--keep", "1d", stdin="2024-05-02T10:00:00Z\nyesterday x\n")
    assert failed.exit_code == 1
    assert "line 2" in failed.output


def test_retention_reads_seconds_and_local_times_too() -> None:
    found = answer(
        retention, "test", "--keep", "last=1", "--tz", "UTC", stdin="1714550400 old\n2024-05-01T09:00:00 new\n"
    )
    assert [item["keep"] for item in found] == [False, True]


def test_bwlimit_prints_kib_per_second(cfg: Path) -> None:
    datacenter = cfg.parent / "datacenter.cfg"
    datacenter.write_text("bwlimit: default=70.5\n")
    files = ("--storage-file", cfg, "--datacenter-file", datacenter)
    assert answer(bwlimit, "migration", "tank", *files) == {"kib_per_s": 100}
    assert answer(bwlimit, "migration", "tank", "local", *files) == {"kib_per_s": 70.5}
    assert answer(bwlimit, "migration", "tank", *files, "--override", "7") == {"kib_per_s": 7}
    assert answer(bwlimit, "migration", "tank", *files, "--override", "700") == {"kib_per_s": 100}
    assert answer(bwlimit, "migration", "tank", *files, "--override", "700", "--permitted") == {"kib_per_s": 700}
    assert answer(bwlimit, "clone", "tank", "--storage-file", cfg) == {"kib_per_s": 0}
    assert run(bwlimit, "clone", "gone", *files).exit_code == 1
    assert run(bwlimit, "walk", "tank", *files).exit_code == 2
    assert run(bwlimit, "clone", "tank", *files, "--override", "-1").exit_code == 2


def test_pvesr_next_tells_when_a_job_is_tried() -> None:
    args = ("next", "--schedule", "*/15", "--last-try", "2024-05-01T10:07:00Z", "--tz", "UTC")
    assert answer(pvesr, *args) == {"next_sync": 1714558500, "time": "2024-05-01T10:15:00+00:00"}
    assert answer(pvesr, *args, "--fails", "2")["time"] == "2024-05-01T10:17:00+00:00"
    assert answer(pvesr, *args, "--fails", "2", "--target-offline") == {"next_sync": 0, "time": None}
    assert run(pvesr, *args, "--fails", "2", "--target-offline").stdout == "never\n"
    assert run(pvesr, "next", "--schedule", "x", "--last-try", "0").exit_code == 1
