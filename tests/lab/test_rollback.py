"""Going back to a point, and reading from one, by the command line on real ZFS."""

import pytest

from .cluster import Cluster
from .host import Host

_SUMS = "for n in 0 1; do dd if=/dev/zvol/tank/vm-101-disk-$n bs=1M iflag=direct status=none | md5sum; done"
_WAIT = "for i in $(seq 300); do [ ! -e {device} ] || break; sleep 0.1; done"
"""For the device of a zvol: it comes a moment after the zvol."""
_WRITE = f"""set -e
for n in 0 1; do
    {_WAIT.format(device="/dev/zvol/tank/vm-101-disk-$n")}
    dd if=/dev/urandom of=/dev/zvol/tank/vm-101-disk-$n bs=1M count=3 seek=$1 oflag=direct status=none
done"""


def _write(host: Host, where: int) -> str:
    """Change both disks of guest 101; returns what they hold then."""
    host.run(f"set -- {where}\n{_WRITE}")
    return host.run(_SUMS)


def _point(cluster: Cluster, source: Host) -> str:
    """A new point, on both nodes."""
    done = cluster.run("replicate", "101", "--now")
    assert done.returncode == 0, done.stdout + done.stderr
    newest = cluster.points(source, 101)[-1]
    return f"{newest['epoch']}-{newest['sequence']}"


@pytest.fixture
def guest(cluster: Cluster, hosts: list[Host]) -> str:
    """Guest 101 on the first host: a VM of two disks; no points but those that are asked for. Returns the first."""
    source, target = hosts
    cluster.add_vm(source, 101, 2)
    _write(source, 1)
    source.run("zfs set compression=zstd tank/vm-101-disk-0")
    selects = {"selector": {"all": True}, "targets": [{"node": target.name, "keep": {"last": 5}}], "schedule": "02:00"}
    cluster.apply({"kind": "ProtectionPolicy", "name": "all", "spec": selects})
    cluster.wait_for(lambda: len(cluster.points(target, 101)) == 1, 120, "there is a first point")
    return _point(cluster, source)


def test_a_guest_goes_back_and_its_replica_follows(cluster: Cluster, hosts: list[Host], guest: str) -> None:
    source, target = hosts
    first = source.run(_SUMS)
    later = _write(source, 8)
    holder = source.spawn("sleep 1000 </dev/zvol/tank/vm-101-disk-1", "holder")
    refused = cluster.run("snapshot", "rollback", "101", guest, "--yes")
    assert refused.returncode == 1
    assert "guest 101 runs: sleep" in refused.stderr, refused.stderr
    holder.stop()
    asked = cluster.run("snapshot", "rollback", "101", guest)
    assert asked.returncode == 2, "without a terminal it wants --yes"
    assert "bytes written since go aside" in asked.stdout
    assert source.run(_SUMS) == later, "nothing was done"

    done = cluster.run("snapshot", "rollback", "101", guest, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert source.run(_SUMS) == first
    listed = source.run("zfs list -Ho name,origin,volmode,readonly -t volume").splitlines()
    asides = [line.split("\t") for line in listed if "/aside/" in line]
    assert [line[2:] for line in asides] == [["none", "on"]] * 2, listed
    assert source.run("zfs get -Ho value compression tank/vm-101-disk-0").strip() == "zstd"
    sent = len(cluster.sends(source))
    _write(source, 12)
    second = _point(cluster, source)
    cluster.check_incremental(source, sent)

    again = cluster.run("snapshot", "rollback", "101", guest, "--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert source.run(_SUMS) == first
    sent = len(cluster.sends(source))
    third = _write(source, 16)
    newest = _point(cluster, source)
    assert int(newest.partition("-")[2]) > int(second.partition("-")[2])
    cluster.check_incremental(source, sent)
    assert len(cluster.sends(source)) > sent
    assert "brought back" in target.run("cat /var/log/holdfast/agent.log")
    name = cluster.points(target, 101)[-1]["members"][0]["snapshot"]
    for n, wanted in enumerate(third.splitlines()):
        device = f"/dev/zvol/tank/look-{n}"
        target.run(f"set -e; zfs clone -o volmode=dev tank/vm-101-disk-{n}@{name} tank/look-{n}")
        there = target.run(f"{_WAIT.format(device=device)}; dd if={device} bs=1M iflag=direct status=none | md5sum")
        assert there.strip() == wanted, "the replica holds what was written after the second rollback"


def test_a_rollback_that_is_cut_short_is_ended_by_the_agents_next_life(
    cluster: Cluster, hosts: list[Host], guest: str
) -> None:
    source = hosts[0]
    first = source.run(_SUMS)
    _write(source, 8)
    agent = cluster.agents[source.name]
    wait = "for i in $(seq 3000); do ! zfs list -Ho name -t volume | grep -q /aside/ || break; sleep 0.05; done"
    killer = source.spawn(f"bash -c '{wait}; kill -9 {agent.pid}'", "killer")
    asked = cluster.run("snapshot", "rollback", "101", guest, "--yes", "--timeout", "20")
    assert asked.returncode == 1, asked.stdout + asked.stderr
    killer.wait()
    cluster.start_agent(source)
    # to look at the disks would delay it: they would be in use
    ended = 'grep -c \'rollback-101.*"state":"done"\' /var/log/holdfast/agent.log'
    cluster.wait_for(lambda: source.run(ended, check=False).strip() == "1", 300, "the rollback is ended")
    assert source.run(_SUMS) == first
    _write(source, 12)
    sent = len(cluster.sends(source))
    _point(cluster, source)
    cluster.check_incremental(source, sent)


def test_a_point_is_copied_and_read(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_container(source, 102, 1)
    source.run("echo precious >/tank/subvol-102-disk-0/file; sync -f /tank/subvol-102-disk-0")
    cluster.protect("60s", target)
    cluster.wait_healthy([102])
    point = "{epoch}-{sequence}".format(**cluster.points(target, 102)[-1])
    mounted = cluster.run("snapshot", "mount", "102", point, "--node", target.name, "--for", "1h")
    assert mounted.returncode == 0, mounted.stdout + mounted.stderr
    folder = f"/run/holdfast/mounts/102-point-{point}/rootfs"
    assert folder in mounted.stdout
    assert target.run(f"cat {folder}/file") == "precious\n"
    assert target.result(f"touch {folder}/x").status != 0
    cluster.wait_for(lambda: folder in cluster.run("snapshot", "copies").stdout, 60, "it is listed")
    cloned = cluster.run("snapshot", "clone", "102", point, "--to", "forensics")
    assert cloned.returncode == 0, cloned.stdout + cloned.stderr
    copy = "tank/holdfast/clones/102-forensics-subvol-102-disk-0"
    assert source.run(f"zfs get -Ho value readonly,canmount,mounted {copy}").split() == ["on", "noauto", "no"]
    for more in (["unmount", "102", point, "--node", target.name], ["unclone", "102", "forensics"]):
        done = cluster.run("snapshot", *more)
        assert done.returncode == 0, done.stdout + done.stderr
    for host in hosts:
        assert "/clones/" not in host.run("zfs list -Ho name")
