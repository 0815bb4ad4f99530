from dataclasses import replace
from datetime import UTC, datetime

import pytest
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.planning.abandoned import Abandoned, abandoned
from holdfast.coordinator.planning.observed import Scan, Volume
from unit.planning.made import VMID, Home, assignment, dataset, protection

REPLICA = "tank/subvol-101-disk-0"


def owner(node: str) -> Owner:
    return Owner(node=node, epoch=1, since=datetime(2026, 1, 2, tzinfo=UTC), by="test")


def replica(scan: Scan, **fields: object) -> Scan:
    """The scan with a replica of guest 101 in it."""
    made = Volume(REPLICA, "filesystem", 9, 1, 4096, 0, 0, False, None, None, {"replica": f"{VMID}/rootfs"})
    return replace(scan, volumes={**scan.volumes, REPLICA: replace(made, **fields)})  # type: ignore[arg-type]


def on_beta(scan: Scan, targets: list[str], known: bool = True) -> list[Abandoned]:
    wanted = {VMID: protection(*(replace(assignment(), node=t) for t in targets))} if known else {}
    return abandoned("beta", wanted, {VMID: owner("alpha")}, scan)


def test_a_replica_of_a_guest_that_is_replicated_here_is_not_abandoned_nor_is_what_is_half_received_of_it() -> None:
    empty = Scan(datetime(2026, 1, 2, tzinfo=UTC))
    assert on_beta(replica(empty), ["beta"]) == []
    assert on_beta(replica(empty, resume_token="1-a"), ["beta"]) == []


@pytest.mark.parametrize(("known", "why"), [(True, "no policy replicates guest 101"), (False, "not in desired")])
def test_what_is_half_received_of_a_guest_that_is_not_is_removed_by_itself_and_a_replica_is_shown(
    known: bool, why: str
) -> None:
    empty = Scan(datetime(2026, 1, 2, tzinfo=UTC))
    [half] = on_beta(replica(empty, resume_token="1-a"), ["gamma"], known)
    assert (half.kind, half.by_itself) == ("half-received", True)
    assert why in half.proof
    [whole] = on_beta(replica(empty), ["gamma"], known)
    assert (whole.kind, whole.by_itself, whole.remove) == ("replica", False, f"zfs destroy -r {REPLICA}")


def test_a_replica_that_has_a_snapshot_is_never_removed_by_itself_though_a_stream_to_it_was_cut() -> None:
    home = Home("scsi0")
    home.take()
    home.change("scsi0", resume_token="1-a", marks={"replica": f"{VMID}/scsi0"})
    [found] = on_beta(home.scan(), ["gamma"])
    assert (found.kind, found.by_itself) == ("replica", False)
    assert "its newest snapshot is holdfast-1-1" in found.proof


def test_what_was_set_aside_is_shown_with_what_it_keeps() -> None:
    empty = Scan(datetime(2026, 1, 2, tzinfo=UTC))
    for name in ("tank/holdfast/aside/101-e1-1-vm-101-disk-0", "rbd:ceph/holdfast.aside.101-e1-1-vm-101-disk-0"):
        volume = Volume(
            name, "volume", 9, 1, 4096, 0, 0, False, None, None, {}, origin="tank/vm-101-disk-0@holdfast-1-1"
        )
        [found] = on_beta(replace(empty, volumes={name: volume}), ["beta"])
        assert (found.kind, found.vmid, found.by_itself) == ("aside", 101, False)
        assert "keeps tank/vm-101-disk-0@holdfast-1-1" in found.proof


def test_a_snapshot_with_a_name_of_ours_that_no_record_lists_is_shown_once_a_later_point_is_complete() -> None:
    """A name proves nothing, so it is never removed by itself; the newest is what the next stream builds on."""
    home = Home("scsi0")
    home.snapshot("scsi0", "holdfast-auto-1-1")
    home.snapshot("scsi0", "by-hand")
    own = {VMID: protection()}, {VMID: owner("alpha")}
    assert abandoned("alpha", *own, home.scan()) == []
    for _ in range(2):
        home.write("scsi0")
        home.take()
    [found] = abandoned("alpha", *own, home.scan())
    assert (found.kind, found.name, found.by_itself) == ("snapshot", f"{dataset('scsi0')}@holdfast-auto-1-1", False)
    assert abandoned("gamma", *own, home.scan()) == [], "somebody else's disks are not looked at"
