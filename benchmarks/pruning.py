"""How fast it is decided what snapshot policies keep: `python benchmarks/pruning.py`. The bound is promised.

200 guests of one volume each, 25 points on every one of them, of two policies and of replication; what is measured is
all that the owner computes from one look at its pools, and what a target does at as many commits.
"""

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.model.point import Consistency, Member, PointId, RecoveryPoint
from holdfast.coordinator.planning.assignment import Assignment, DiskMap
from holdfast.coordinator.planning.kept import Rules
from holdfast.coordinator.planning.leftovers import plan_cleanup
from holdfast.coordinator.planning.observed import Anchor, Scan, Snapshot, Volume
from holdfast.coordinator.planning.superseded import superseded

VOLUMES, EACH = 200, 25
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")
GUEST = Guest(type="qemu")
RULES = Rules(
    {"hourly": Keep.parse("36h/5d/2m"), "daily": Keep.parse("last=3,daily=7,weekly=4")},
    every_point=Keep(last=1),
    zone=ZONE,
    at_targets={"beta": Rules({"hourly": Keep(last=3), "daily": Keep(daily=30)}, every_point=Keep(last=1), zone=ZONE)},
)
BOUND = 1.0
"""Seconds."""


def look() -> Scan:
    """What a scan shows: it is read once, and looked at by every guest."""
    volumes, anchors = {}, {}
    for number in range(VOLUMES):
        vmid = 100 + number
        points, snapshots = [], []
        for n in range(EACH):
            guid = vmid * 1000 + n
            points.append(_point(vmid, n, guid))
            snapshots.append(Snapshot(points[-1].snapshot, guid, n + 1, 4096, 4096, 1))
        dataset = f"tank/vm-{vmid}-disk-0"
        volumes[dataset] = Volume(
            dataset, "volume", vmid, 1 << 30, 0, 0, 1, False, None, None, {}, {}, tuple(snapshots)
        )
        anchors["tank", vmid] = Anchor("tank", vmid, 1, tuple(points), {"beta": PointId(1, EACH - 1)}, {"d": "text"})
    return Scan(NOW, volumes, anchors)


def _point(vmid: int, n: int, guid: int) -> RecoveryPoint:
    member = Member(
        disk="scsi0",
        volume=f"local-zfs:vm-{vmid}-disk-0",
        dataset=f"tank/vm-{vmid}-disk-0",
        snapshot=f"holdfast-1-{n + 1}",
        guid=guid,
        size=1 << 30,
    )
    return RecoveryPoint(
        epoch=1,
        sequence=n + 1,
        instant=NOW - timedelta(hours=7 * (EACH - n)),
        consistency=Consistency.ATOMIC,
        definition="d",
        disks=("scsi0",),
        members=(member,),
        policies=(("hourly",), ("hourly", "daily"), ())[n % 3],
    )


def on_owner(scan: Scan) -> int:
    """How many snapshots go."""
    return sum(len(plan_cleanup(100 + n, scan, ["beta"], (), RULES).destroy) for n in range(VOLUMES))


def on_target(scan: Scan) -> int:
    """How many snapshots go when each guest's newest point is committed."""
    gone = 0
    for n in range(VOLUMES):
        vmid = 100 + n
        disk = f"tank/vm-{vmid}-disk-0"
        to = Assignment(
            vmid, "p", "beta", (DiskMap("scsi0", "s:v", disk, "s:v", disk),), 60.0, None, None, Keep(last=1)
        )
        newest = scan.anchors["tank", vmid].points[-1]
        gone += len(superseded(to, scan, newest, RULES.at_targets["beta"]).destroy)
    return gone


def measure(work: Callable[[Scan], int]) -> tuple[float, int]:
    """Seconds (median of five, each on a scan that nobody has looked at), and what it found."""
    times, found = [], 0
    for _ in range(5):
        scan = look()
        began = time.perf_counter()
        found = work(scan)
        times.append(time.perf_counter() - began)
    return statistics.median(times), found


def main() -> int:
    failed = False
    for what, work in (("on the owner", on_owner), ("on a target", on_target)):
        seconds, gone = measure(work)
        failed |= seconds > BOUND
        verdict = "ok" if seconds <= BOUND else "TOO SLOW"
        print(
            f"pruning of {VOLUMES * EACH:,} snapshots on {VOLUMES} volumes, {what}: {seconds * 1000:,.0f} ms"
            f" ({gone:,} go)   bound {BOUND * 1000:,.0f} ms: {verdict}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
