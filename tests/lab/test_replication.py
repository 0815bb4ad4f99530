"""The main job: desired state in etcd keeps guests' ZFS disks replicated, on real parts."""

import time

from .cluster import Cluster, guest, write_to
from .host import Host
from .recorder import Recorder

VM_DISKS = ["scsi0", "scsi1", "scsi2"]
CONTAINER_DISKS = ["rootfs", "mp0"]


def test_guests_that_write_all_the_time_hold_their_rpo_and_no_point_is_mixed(
    cluster: Cluster, hosts: list[Host], recorder: Recorder
) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 3)
    cluster.add_container(source, 102, 2)
    write_to(source, 101, 3, pause=0.2, payload=16384)
    write_to(source, 102, 2, pause=0.2, payload=16384)
    recorder.wait_for("101", 3)
    cluster.protect("60s", target, keep={"last": 3})
    cluster.wait_healthy([101, 102])
    first = len(cluster.sends(source))
    until = time.monotonic() + 75
    while time.monotonic() < until:
        status = cluster.status()
        assert [g["state"] for g in status["guests"]] == ["healthy", "healthy"], status
        time.sleep(5)
    seen = cluster.check_points(target, 101, VM_DISKS)
    assert len(seen) >= 2
    assert seen[-1][0] > seen[0][0], "points move on"
    assert len(cluster.check_points(target, 102, CONTAINER_DISKS)) >= 2
    cluster.check_incremental(source, first)


def test_disks_added_removed_and_resized_are_followed(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 2)
    cluster.add_container(source, 102, 1)
    cluster.protect("20s", target)
    cluster.wait_healthy([101, 102])
    source.run(
        """set -e
        zfs set volsize=96M tank/vm-101-disk-0
        zfs create -s -V 64M tank/vm-101-disk-2
        zfs set refquota=80M tank/subvol-102-disk-0"""
    )
    cluster.apply(guest(101, "qemu", source, {"scsi0": "vm-101-disk-0", "scsi2": "vm-101-disk-2"}))

    def followed() -> bool:
        newest = cluster.points(target, 101)[-1]
        sizes = target.run("zfs get -Hp -o value volsize tank/vm-101-disk-0; zfs get -Hp -o value refquota"
                           " tank/subvol-102-disk-0").split()  # fmt: skip
        return set(newest["disks"]) == {"scsi0", "scsi2"} and sizes == [str(96 << 20), str(80 << 20)]

    cluster.wait_for(followed, 90, "the target has the new disk and the new sizes")
    cluster.request(101)  # the second point in a row that lacks the disk; until then it may be put back
    aside = {"tank/holdfast/aside/101-e1-1-vm-101-disk-1"}
    replicas = {f"tank/vm-101-disk-{n}" for n in (0, 2)}
    cluster.wait_for(
        lambda: set(target.run("zfs list -Ho name -t volume").split()) == replicas | aside,
        60,
        "the removed disk's replica is kept aside",
    )


def test_a_replica_is_closed_to_the_host(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 1)
    cluster.add_container(source, 102, 1)
    cluster.protect("20s", target)
    cluster.wait_healthy([101, 102])
    closed = target.run(
        "zfs get -H -o value readonly,volmode tank/vm-101-disk-0; zfs get -H -o value"
        " readonly,canmount,mounted tank/subvol-102-disk-0"
    )
    assert closed.split() == ["on", "none", "on", "noauto", "no"]
    assert not target.run("ls /dev/zvol/tank 2>/dev/null || true").strip()


def test_a_dataset_that_is_not_ours_is_left_alone_and_the_other_guest_goes_on(
    cluster: Cluster, hosts: list[Host]
) -> None:
    source, target = hosts
    target.run("zfs create -s -V 64M tank/vm-101-disk-0; zfs snapshot tank/vm-101-disk-0@precious")
    cluster.add_vm(source, 101, 1)
    cluster.add_vm(source, 103, 1)
    cluster.protect("20s", target)
    cluster.wait_healthy([103])
    cluster.wait_for(
        lambda: "TargetOccupied" in str(cluster.guest(101)), 60, "the guest's status says that the name is taken"
    )
    assert "left alone" in cluster.run("explain", "101").stdout
    assert "tank/vm-101-disk-0@precious" in target.run("zfs list -Ho name -t snapshot")


def test_a_clone_of_an_old_point_does_not_stop_new_ones(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 1)
    cluster.protect("20s", target)
    cluster.wait_healthy([101])
    name = cluster.points(target, 101)[-1]["members"][0]["snapshot"]
    source.run(f"zfs clone tank/vm-101-disk-0@{name} tank/mine")
    write_to(source, 101, 1, pause=0.5)
    cluster.wait_for(lambda: "CleanupFailed" in str(cluster.guest(101)), 120, "the status says what stays, and why")
    newest = cluster.points(target, 101)[-1]["sequence"]
    cluster.wait_for(lambda: cluster.points(target, 101)[-1]["sequence"] >= newest + 2, 120, "points move on")
    source.run("zfs destroy tank/mine")
    cluster.wait_for(lambda: "CleanupFailed" not in str(cluster.guest(101)), 120, "it goes once the clone has gone")
    assert f"@{name}" not in source.run("zfs list -Ho name -t snapshot")


def test_a_cut_stream_is_resumed_not_sent_again(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 1)
    cluster.protect("20s", target, bandwidth=2 << 20)
    cluster.wait_healthy([101])
    first = len(cluster.sends(source))
    source.run("dd if=/dev/urandom of=/dev/zvol/tank/vm-101-disk-0 bs=1M count=40 oflag=direct status=none")
    cluster.wait_for(
        lambda: (
            int(target.run("zfs get -Hp -o value used tank/vm-101-disk-0")) > 12 << 20
            and "receive" in target.run("ps -eo args | grep '[z]fs recv' | sed 's/zfs recv/receive/'", check=False)
        ),
        120,
        "the stream is under way",
    )
    time.sleep(5)
    source.cut(target)
    cluster.wait_for(lambda: len(cluster.sends(source)) > first, 180, "the source notices that the link is gone")
    source.heal(target)
    cluster.wait_healthy([101])
    sends = cluster.sends(source)[first:]
    resumed = [s for s in sends if s.resumed]
    assert resumed, sends
    assert sum(s.bytes for s in sends) <= 1.2 * (40 << 20) + (1 << 20), f"sent again: {sends}"


def test_a_first_stream_that_was_cut_before_its_dataset_was_marked_is_begun_anew(
    cluster: Cluster, hosts: list[Host]
) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 1)
    source.run("dd if=/dev/urandom of=/dev/zvol/tank/vm-101-disk-0 bs=1M count=20 oflag=direct status=none")
    cluster.protect("20s", target, bandwidth=1 << 20)
    cluster.wait_for(lambda: "holdfast-1-1" in source.run("zfs list -Ho name -t snapshot"), 60, "a point is taken")
    cluster.agents[target.name].kill()
    # what a power cut leaves between zfs recv's making the dataset and its marking it
    source.run("zfs send -Lec tank/vm-101-disk-0@holdfast-1-1 | head -c 4000000 > /root/half || true")
    target.run("zfs recv -A tank/vm-101-disk-0 2>/dev/null || true")
    target.put(source.get("/root/half"), "/root/half")
    target.run("zfs recv -s -u tank/vm-101-disk-0 < /root/half 2>/dev/null || true")
    assert target.run("zfs get -Ho value receive_resume_token tank/vm-101-disk-0").strip() != "-"
    cluster.start_agent(target)
    cluster.wait_healthy([101])
    assert target.run("zfs get -Ho value,source holdfast:replica tank/vm-101-disk-0").split() == ["101/scsi0", "local"]


def test_a_stale_owner_is_refused_by_the_storage_itself(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 1)
    cluster.protect("20s", target)
    cluster.wait_healthy([101])
    before = cluster.points(target, 101)[-1]
    target.run("zfs set holdfast:epoch=7 tank/holdfast/guests/101")
    source.run("dd if=/dev/urandom of=/dev/zvol/tank/vm-101-disk-0 bs=1M count=1 oflag=direct status=none")
    cluster.wait_for(lambda: "EpochRefused" in str(cluster.guest(101)), 90, "the refusal is in the status")
    assert cluster.points(target, 101)[-1] == before
    target.run("zfs set holdfast:epoch=1 tank/holdfast/guests/101")
    source.run("zfs set holdfast:epoch=7 tank/holdfast/guests/101")
    source.run("dd if=/dev/urandom of=/dev/zvol/tank/vm-101-disk-0 bs=1M count=1 oflag=direct status=none")
    cluster.wait_for(lambda: "marked with epoch 7" in str(cluster.guest(101)), 90, "its own storage refuses it too")
    newest = cluster.points(source, 101)[-1]
    time.sleep(25)
    assert cluster.points(source, 101)[-1] == newest, "it takes no points under the old epoch"
