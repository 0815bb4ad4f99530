"""The lab does what it promises. The other tests here stand on it."""

import re
import time

import pytest

from .autopsy import describe
from .exec_channel import ScriptFailed
from .guest_writer import start_writer
from .host import Host
from .lab import Lab
from .mixture import MixtureFound, check_point
from .recorder import Recorder

DISKS = ["vm-1-disk-0", "vm-1-disk-1", "vm-1-disk-2"]
DEVICES = [f"/dev/zvol/tank/{disk}" for disk in DISKS]


def create_disks(host: Host) -> None:
    host.run("set -e\n" + "\n".join(f"zfs create -s -V 64M tank/{disk}" for disk in DISKS))


def ping(host: Host, target: str) -> bool:
    return host.result(f"ping -c 1 -W 1 {target}").status == 0


def test_a_failed_script_is_told_with_its_output(hosts: list[Host]) -> None:
    with pytest.raises(ScriptFailed, match=r"exit status 3 of\n.*\nout\nerr"):
        hosts[0].run("echo out; echo err >&2; exit 3")
    assert hosts[0].result("sleep 20", timeout=1).status == -9


def test_what_hangs_in_a_host_is_told_by_its_kernel_stack(hosts: list[Host]) -> None:
    hosts[0].spawn("sleep 1000 | zfs recv tank/never", "receiver")
    while not hosts[0].run("pgrep -x zfs", check=False):
        time.sleep(0.2)
    told = describe(hosts[0])
    assert re.search(r"\d+ \(zfs\) S, child of \d+\n(    .*\n)*    .*pipe_read", told), told
    assert "pool: tank" in told
    assert "agent (exit status 1)" in told  # there is none here, and nothing stops at that


def test_hosts_have_identities_of_their_own(hosts: list[Host]) -> None:
    script = "hostname; cat /proc/sys/kernel/random/boot_id /etc/machine-id; zpool get -Hp -o value guid tank"
    first, second = (host.run(script).split() for host in hosts)
    assert first[0] == "host1"
    assert len(first) == 4
    assert not set(first) & set(second)


def test_files_and_the_code_get_there(hosts: list[Host]) -> None:
    content = bytes(range(256)) * 1000
    hosts[0].put(content, "/root/some file")
    assert hosts[0].get("/root/some file") == content
    hosts[0].deploy()
    assert hosts[0].run("python3 -c 'import holdfast.coordinator as c; print(c.__path__)'").strip()
    hosts[0].run("python3 -c 'import grpc.aio, pydantic, structlog, orjson'")


def test_a_power_cut_keeps_what_was_synced_and_the_pool(hosts: list[Host]) -> None:
    host = hosts[0]
    guid = host.run("zpool get -Hp -o value guid tank")
    host.run("echo kept >/tank/a; echo kept >/var/lib/holdfast/a; sync; echo lost >/run/b")
    boot = host.run("cat /proc/sys/kernel/random/boot_id")
    host.power_cut()
    assert "it does not answer" in describe(host)
    host.power_on()
    assert host.run("cat /tank/a /var/lib/holdfast/a; ls /run").startswith("kept\nkept\n")
    assert "b" not in host.run("ls /run").split()
    assert host.run("zpool get -Hp -o value guid tank") == guid
    assert host.run("cat /proc/sys/kernel/random/boot_id") != boot


def test_a_crashed_host_boots_again_with_its_pool(hosts: list[Host]) -> None:
    host = hosts[1]
    host.run("echo kept >/tank/a; sync")
    host.crash()
    assert host.run("hostname; cat /tank/a").split() == ["host2", "kept"]
    assert ping(host, hosts[0].address)


def test_a_cut_between_two_hosts_leaves_the_rest_whole(lab: Lab, hosts: list[Host]) -> None:
    first, second = hosts
    first.cut(second)
    assert not ping(first, second.address)
    assert not ping(second, first.address)
    assert ping(first, "10.77.0.254")
    first.heal(second)
    assert ping(first, second.address)
    first.cut_from_etcd()
    assert not ping(first, "10.77.0.254")
    assert lab.run_in_netns(["ping", "-c1", "-W1", first.address]).returncode != 0
    assert ping(second, first.address)
    first.heal_to_etcd()
    assert ping(first, "10.77.0.254")


def test_a_host_without_its_link_still_runs_scripts(hosts: list[Host]) -> None:
    hosts[0].link_down()
    assert not ping(hosts[0], hosts[1].address)
    hosts[0].link_up()
    assert ping(hosts[0], hosts[1].address)


def test_etcd_keeps_its_data_over_a_kill(lab: Lab, hosts: list[Host]) -> None:
    lab.start_etcd()
    try:
        lab.etcd.ctl("put", "a", "1")
        lab.kill9_etcd()
        lab.start_etcd()
        assert lab.etcd.ctl("get", "a", "--print-value-only") == "1\n"
        assert hosts[0].run("python3 -c \"import socket; socket.create_connection(('10.77.0.254', 2379), 5)\"") == ""
    finally:
        lab.kill9_etcd()


def test_a_frozen_process_stands_still(hosts: list[Host]) -> None:
    process = hosts[0].spawn("bash -c 'while echo x; do sleep 0.1; done'", "ticker")
    time.sleep(1)
    process.sigstop()
    frozen = process.log()
    time.sleep(1)
    assert process.log() == frozen != ""
    process.sigcont()
    time.sleep(1)
    assert process.log() != frozen
    process.stop()
    assert not process.alive()


def test_starts_of_programs_are_counted_by_name(hosts: list[Host]) -> None:
    with hosts[0].count_execs() as counts:
        hosts[0].run("for i in 1 2 3; do zfs list >/dev/null; done; zpool list >/dev/null")
    assert (counts["zfs"], counts["zpool"], counts["syncoid"]) == (3, 1, 0)


def test_atomic_snapshots_of_a_busy_guest_are_no_mixture(hosts: list[Host], recorder: Recorder) -> None:
    host = hosts[0]
    create_disks(host)
    start_writer(host, "1", DEVICES)
    for index in range(2):
        recorder.wait_for("1", recorder.last_counter("1") + 5)
        snapshots = [f"tank/{disk}@{index}" for disk in DISKS]
        acknowledged = recorder.last_counter("1")
        host.run(f"zfs snapshot {' '.join(snapshots)}")
        assert check_point(host, snapshots)[-1] >= acknowledged
    assert host.run("zfs list -H -o name").count("lab-check") == 0


def test_snapshots_taken_one_by_one_are_found_to_be_a_mixture(hosts: list[Host], recorder: Recorder) -> None:
    host = hosts[0]
    create_disks(host)
    start_writer(host, "1", DEVICES)
    for disk in DISKS:
        recorder.wait_for("1", recorder.last_counter("1") + 3)
        host.run(f"zfs snapshot tank/{disk}@torn")
    with pytest.raises(MixtureFound, match="want A >= B >= C"):
        check_point(host, [f"tank/{disk}@torn" for disk in DISKS])


def test_subvols_are_checked_for_mixture_too(hosts: list[Host], recorder: Recorder) -> None:
    host = hosts[0]
    host.run("zfs create tank/subvol-2-disk-0; zfs create tank/subvol-2-disk-1")
    start_writer(host, "2", ["/tank/subvol-2-disk-0", "/tank/subvol-2-disk-1"])
    recorder.wait_for("2", 3)
    snapshots = ["tank/subvol-2-disk-0@a", "tank/subvol-2-disk-1@a"]
    host.run(f"zfs snapshot {' '.join(snapshots)}")
    assert check_point(host, snapshots)[0] >= 3


def test_the_writer_goes_on_where_it_was_after_a_power_cut(hosts: list[Host], recorder: Recorder) -> None:
    host = hosts[0]
    create_disks(host)
    start_writer(host, "1", DEVICES)
    recorder.wait_for("1", 5)
    host.power_cut()
    acknowledged = recorder.last_counter("1")
    host.power_on()
    start_writer(host, "1", DEVICES)
    recorder.wait_for("1", acknowledged + 3)
    assert min(w.counter for w in recorder.writes("1") if w.counter > acknowledged) == acknowledged + 1
