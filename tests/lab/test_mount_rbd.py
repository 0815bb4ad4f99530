"""Points on Ceph that are mounted by the kernel's client: real krbd, ext4 and XFS in the hosts, Ceph beside etcd.

The agent has the capabilities that its unit leaves it, a mount namespace of its own, and a read-only /sys.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.ceph.cluster import CephCluster
from integration.ceph.site import by_hand
from integration.under_unit import settings

from .ceph import KEYS, add_storages
from .cluster import Cluster
from .host import Host
from .network import GATEWAY

IMAGES = {"rootfs": "vm-101-disk-0", "mp0": "vm-101-disk-1", "scsi0": "vm-102-disk-0"}
"""By the slots of container 101 and VM 102."""
ROOT, VOLUME = "/mnt/rootfs", "/mnt/mp0"
"""Where the container's file systems are."""
_UNIT = Path(__file__).parents[2] / "systemd" / "holdfast-agent.service"
_RIGHTS = ",".join(f"+{name.lower().removeprefix('cap_')}" for name in settings(_UNIT, "CapabilityBoundingSet"))
_AGENT = f"""unshare --mount --propagation slave bash -c '
    mount -o remount,bind,ro /sys
    PATH=/run/lab/bin:$PATH exec setpriv --no-new-privs --bounding-set=-all,{_RIGHTS} \
        holdfast-agent --verbose --config /etc/holdfast/agent.yaml'"""
_SHIM = """#!/bin/sh
# Runs the command of its name; where a file says so, it then kills the agent, whose child it is, once.
PATH=${PATH#/run/lab/bin:}
what=$(basename $0)
$what "$@" || exit
[ $what != rbd ] || what=$2
[ ! -e /run/lab/kill-after-$what ] || { rm /run/lab/kill-after-$what; kill -9 $PPID; }
"""
_RBD = f"rbd --conf /dev/null --mon-host {GATEWAY} --keyring {KEYS}/ceph.keyring"
# The mounts are shared, as systemd has them: an agent that was started meanwhile would keep what the host unmounts.
_RUN_CONTAINER = f"""set -e; modprobe -a rbd ext4 xfs; mount --make-rshared /; mkdir -p {ROOT} {VOLUME}
for image in {IMAGES["rootfs"]} {IMAGES["mp0"]}; do
    {_RBD} device map --image $image -o noudev
done
mkfs.ext4 -q /dev/rbd0; mount /dev/rbd0 {ROOT}; mount /dev/rbd1 {VOLUME}; sync
for folder in {ROOT} {VOLUME}; do
    echo "as it was" | dd of=$folder/file conv=fsync status=none
done"""
_TIDY = "for device in /dev/rbd*; do umount -A $device; rbd --conf /dev/null device unmap -o noudev $device; done"


@pytest.fixture
def home(ceph: CephCluster, cluster: Cluster, hosts: list[Host], tmp_path: Path) -> Iterator[Host]:
    """The host of container 101, whose file systems (ext4 and XFS) are in use there, and of VM 102."""
    host = hosts[0]
    add_storages(ceph, cluster, hosts, krbd=True)
    for agent in cluster.agents.values():
        agent.kill()
    for tool in ("rbd", "mount", "umount"):
        host.put(_SHIM, f"/run/lab/bin/{tool}", 0o755)
    for slot in ("rootfs", "scsi0"):
        ceph.rbd("create", "--size", "64M", "--image", IMAGES[slot])
    with (tmp_path / "xfs").open("wb") as file:
        file.truncate(320 << 20)  # it wants no less than 300 MiB
    subprocess.run(["mkfs.xfs", "-q", tmp_path / "xfs"], check=True)
    ceph.rbd("import", "--no-progress", str(tmp_path / "xfs"), IMAGES["mp0"])
    host.run(_RUN_CONTAINER)
    for vmid, kind in ((101, "lxc"), (102, "qemu")):
        disks = {slot: {"volume": f"ceph:{image}"} for slot, image in IMAGES.items() if f"-{vmid}-" in image}
        cluster.apply({"kind": "Guest", "name": vmid, "spec": {"type": kind, "node": host.name, "disks": disks}})
    try:
        _start_agent(cluster, host)
        yield host
    finally:
        cluster.stop()
        host.run(_TIDY, check=False)


def _start_agent(cluster: Cluster, host: Host) -> None:
    cluster.agents[host.name] = host.spawn(_AGENT, "agent")


def _point(cluster: Cluster, vmid: int) -> str:
    """Of the guest as it is now."""
    cluster.wait_for(lambda: "owner" in str(cluster.guest(vmid)), 60, "it is known")
    found: list[str] = []

    def there() -> bool:
        found[:] = re.findall(r"(\d+-\d+) .*a request", cluster.run("snapshot", "list", str(vmid)).stdout)
        return bool(found)

    cluster.wait_for(lambda: cluster.run("snapshot", "create", str(vmid)).returncode == 0, 60, "it has an owner")
    cluster.wait_for(there, 120, "its point is there")
    return found[0]


def _done(cluster: Cluster, *arguments: str) -> str:
    done = cluster.run("snapshot", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr + cluster.logs()
    return done.stdout


def _mapped(host: Host) -> list[str]:
    """Copies that the kernel has."""
    return host.run("cat /sys/bus/rbd/devices/*/name 2>/dev/null | grep holdfast", check=False).split()


def _copies(ceph: CephCluster) -> list[str]:
    return [name for name in ceph.rbd("ls").decode().split() if name.startswith("holdfast.")]


def _folder(point: str, slot: str) -> str:
    return f"/run/holdfast/mounts/101-point-{point}/{slot}"


def test_a_containers_files_of_then_are_read_in_folders_until_it_is_unmounted(
    ceph: CephCluster, cluster: Cluster, home: Host
) -> None:
    point = _point(cluster, 101)
    home.run(f"for f in {ROOT} {VOLUME}; do echo later >$f/file; sync -f $f; done")
    said = _done(cluster, "mount", "101", point)
    listed = _done(cluster, "copies", "101")
    for folder in (_folder(point, "rootfs"), _folder(point, "mp0")):
        assert folder in said
        assert folder in listed
        assert home.run(f"cat {folder}/file") == "as it was\n", "what the journal alone had"
        assert home.result(f"touch {folder}/new").status != 0
        assert {"ro", "nosuid", "nodev", "noexec"} <= {*home.run(f"findmnt -no OPTIONS {folder}").strip().split(",")}
    reading = home.spawn(f"sleep 1000 <{folder}/file", "reader")
    busy = cluster.run("snapshot", "unmount", "101", point, "--timeout", "20")
    assert (busy.returncode, "busy" in busy.stderr) == (1, True), busy.stderr
    assert home.run(f"cat {folder}/file") == "as it was\n"
    reading.kill()
    cluster.wait_for(lambda: not _copies(ceph), 60, "the request, which stands, is carried out")
    assert _mapped(home) == []
    assert home.result(f"ls {Path(folder).parent}").status != 0
    assert home.run(f"cat {ROOT}/file {VOLUME}/file") == "later\nlater\n"


def test_a_vms_disk_of_then_is_a_device_that_nobody_writes_to_also_after_a_power_cut(
    ceph: CephCluster, cluster: Cluster, home: Host
) -> None:
    with by_hand((ceph, "rbd", "")) as hand:
        hand.write(IMAGES["scsi0"], b"as it was")
        point = _point(cluster, 102)
        hand.write(IMAGES["scsi0"], b"later....")

    def check() -> None:
        device = re.findall(r"scsi0: (/dev/rbd\d+)", _done(cluster, "mount", "102", point))[0]
        assert home.run(f"head -c 9 {device}") == "as it was"
        assert home.run(f"blockdev --getro {device}") == "1\n"

    check()
    home.power_cut()
    home.power_on()
    _start_agent(cluster, home)
    refused = cluster.run("snapshot", "mount", "102", point)
    assert (refused.returncode, "modprobe rbd" in refused.stderr) == (1, True), refused.stderr
    home.run("modprobe rbd")
    cluster.wait_for(
        lambda: "(mount it again)" in _done(cluster, "copies", "102"), 60, "it is told that it is not there"
    )
    check()
    _done(cluster, "unmount", "102", point)
    assert (_copies(ceph), _mapped(home)) == ([], [])


def test_an_agent_that_is_killed_amid_goes_on_where_it_stood(ceph: CephCluster, cluster: Cluster, home: Host) -> None:
    point = _point(cluster, 101)

    def killed(after: str, *arguments: str) -> None:
        home.run(f"touch /run/lab/kill-after-{after}")
        assert cluster.run("snapshot", *arguments, "--timeout", "1").returncode == 1
        agent = cluster.agents[home.name]
        cluster.wait_for(lambda: not agent.alive(), 60, f"killed after {after}")

    for begun, ended, left in (("map", "umount", 2), ("mount", "unmap", 1)):
        killed(begun, "mount", "101", point)
        assert len(_mapped(home)) == 1
        _start_agent(cluster, home)
        _done(cluster, "mount", "101", point)
        assert len(_mapped(home)) == 2
        assert home.run(f"cat {_folder(point, 'rootfs')}/file {_folder(point, 'mp0')}/file") == "as it was\n" * 2
        killed(ended, "unmount", "101", point)
        assert len(_mapped(home)) == left
        _start_agent(cluster, home)
        cluster.wait_for(lambda: not _copies(ceph), 90, "the request, which stands, is carried out")
        assert _mapped(home) == []
