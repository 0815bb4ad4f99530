"""Snapshot policies on real ZFS: taken, brought, let go of by their rules, beside what people and others make."""

import re
import time
from typing import Any

from .cluster import Cluster, write_to
from .host import Host


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "SnapshotPolicy", "name": name, "spec": {"selector": {"all": True}, **spec}}


def taken_for(cluster: Cluster, host: Host, vmid: int, name: str) -> list[int]:
    """The points that only this keeps: what a person has asked for stays besides, whatever fell due just then."""
    points = [p for p in cluster.points(host, vmid) if "request" not in p]
    return [p["sequence"] for p in points if name in p.get("policies", ())]


def test_policies_take_keep_and_bring_points_and_touch_nothing_of_others(cluster: Cluster, hosts: list[Host]) -> None:
    source, target = hosts
    cluster.add_vm(source, 101, 2)
    source.run(
        "zfs snapshot tank/vm-101-disk-0@autosnap_2026-01-02_hourly;"
        " zfs snapshot tank/vm-101-disk-0@__replicate_101-0_1767312000__"
    )
    write_to(source, 101, 2, pause=0.5)
    cluster.protect("60s", target)
    cluster.apply(policy("often", every="6s", keep="last=3", replicas="last=2", prefix="auto"))
    cluster.apply(policy("full", every="6s", keep="last=3", min_free="100T"))
    cluster.wait_for(lambda: bool(taken_for(cluster, source, 101, "often")), 240, "the policy has its first point")
    asked = cluster.run("snapshot", "create", "101", "--note", "before the upgrade")
    assert asked.returncode == 0, asked.stderr
    until = time.monotonic() + 30
    cluster.wait_for(
        lambda: time.monotonic() > until and len(taken_for(cluster, source, 101, "often")) >= 3, 240, "more of them"
    )
    cluster.wait_for(
        lambda: len(taken_for(cluster, target, 101, "often")) == 2, 240, "the target keeps by its own rule"
    )
    assert len(taken_for(cluster, source, 101, "often")) <= 5, "three, what the target has, and what it gets next"
    assert not taken_for(cluster, source, 101, "full"), "the pool has no 100 TiB"
    assert "FreeSpaceGuard" in str(cluster.guest(101)["conditions"])

    cluster.wait_for(
        lambda: "sanoid" in cluster.run("snapshot", "list", "101").stdout, 120, "its agent says what others made"
    )
    listed = cluster.run("snapshot", "list", "101").stdout
    assert "Proxmox replication" in listed
    assert re.search(rf"^{source.name} .*often", listed, re.M)
    asked_for = re.search(rf"^{source.name} +(\S+) .*before the upgrade", listed, re.M)
    assert asked_for, listed
    number = asked_for[1]
    names = source.run("zfs list -Ho name -t snapshot -r tank/vm-101-disk-0").split()
    assert any(re.fullmatch(rf"tank/vm-101-disk-0@holdfast-(auto-)?{number}", name) for name in names)
    assert any("@holdfast-auto-1-" in name for name in names)
    newest = cluster.points(source, 101)[-1]
    assert cluster.run("snapshot", "delete", "101", f"1-{newest['sequence']}").returncode == 1, "replication needs it"

    deleted = cluster.run("snapshot", "delete", "101", number)
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    for host in hosts:
        cluster.wait_for(lambda host=host: f"-{number}\n" not in host.run("zfs list -Ho name -t snapshot"), 240, "gone")
    left = source.run("zfs list -Ho name -t snapshot -r tank/vm-101-disk-0")
    assert "@autosnap_2026-01-02_hourly" in left
    assert "@__replicate_101-0_1767312000__" in left
