"""Which images this machine's kernel has mapped, and where it has mounted them: told from copies of its tables."""

from pathlib import Path

from holdfast.agent.guests.krbd import Device, devices, folders, mapped

FSID = "4e2b9c1e-7f0e-4a55-9d30-111111111111"
OTHER = "4e2b9c1e-7f0e-4a55-9d30-222222222222"
IMAGES = {"rbd:ceph/vm-101-disk-0": f"{FSID}/rbd//vm-101-disk-0", "rbd:ns/vm-101-disk-1": f"{FSID}/rbd/a/vm-101-disk-1"}


def _map(bus: Path, number: int, name: str, snapshot: str = "-", **missing: bool) -> None:
    fsid, pool, namespace, image = name.split("/")
    said = {"cluster_fsid": fsid, "pool": pool, "pool_ns": namespace, "name": image, "current_snap": snapshot}
    said |= {"major": "252", "minor": str(16 * number)}
    device = bus / str(number)
    device.mkdir(parents=True)
    for attribute, value in said.items():
        if attribute not in missing:
            (device / attribute).write_text(f"{value}\n")


def test_an_image_is_known_by_cluster_pool_namespace_and_name(tmp_path: Path) -> None:
    _map(tmp_path, 0, f"{FSID}/rbd//vm-101-disk-0")
    _map(tmp_path, 1, f"{FSID}/rbd/a/vm-101-disk-1")
    _map(tmp_path, 2, f"{OTHER}/rbd//vm-101-disk-0")
    _map(tmp_path, 3, f"{FSID}/rbd/b/vm-101-disk-1")
    _map(tmp_path, 4, f"{FSID}/fast//vm-101-disk-0")
    assert mapped(IMAGES, tmp_path) == {"252:0": "rbd:ceph/vm-101-disk-0", "252:16": "rbd:ns/vm-101-disk-1"}


def test_a_snapshot_that_is_mapped_is_not_the_guests_disk(tmp_path: Path) -> None:
    _map(tmp_path, 0, f"{FSID}/rbd//vm-101-disk-0", snapshot="holdfast-1-1")
    assert mapped(IMAGES, tmp_path) == {}


def test_a_device_that_goes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    _map(tmp_path, 0, f"{FSID}/rbd//vm-101-disk-0", current_snap=True)
    _map(tmp_path, 1, f"{FSID}/rbd/a/vm-101-disk-1")
    assert mapped(IMAGES, tmp_path) == {"252:16": "rbd:ns/vm-101-disk-1"}


def test_a_machine_without_the_kernels_client_has_none(tmp_path: Path) -> None:
    assert mapped(IMAGES, tmp_path / "none") == {}


def test_one_that_is_mapped_twice_has_two_devices(tmp_path: Path) -> None:
    name = f"{FSID}/rbd//vm-101-disk-0"
    for number in (1, 2):
        _map(tmp_path, number, name)
    assert devices(tmp_path) == [Device(name, "252:16", "/dev/rbd1"), Device(name, "252:32", "/dev/rbd2")]


def test_the_mounts_of_a_device_are_told_latest_first(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 252:176 / / rw,relatime shared:1 - ext4 /dev/rbd11 rw\n"
        "40 22 252:16 / /run/a\\040b ro,nosuid shared:7 - ext4 /dev/rbd1 ro\n"
        "41 22 252:16 / /mnt ro master:3 shared:8 - ext4 /dev/rbd/rbd/x ro\n"
    )
    assert folders(Device("x", "252:16", "/dev/rbd1"), table) == ["/mnt", "/run/a b"]
