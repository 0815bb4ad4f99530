"""What a guest is to be snapshotted for now, besides replication: policies that fall due, and people who ask. Pure.

What falls due at one instant is one point, for however many policies. Runs that were missed are made up for by one
point, which is marked late. With too little free space a policy takes none, and says so; a person's request is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy, Wish, least_free
from holdfast.coordinator.planning.assignment import Protection
from holdfast.coordinator.planning.due import next_due
from holdfast.coordinator.planning.observed import Scan, pool_of

LATE_AFTER = timedelta(minutes=1)
"""How much later than due a point may be without being marked so."""
LOOK_FOR_SPACE = timedelta(minutes=1)
"""Between looks at a pool that is too full."""
_STRICTEST_LAST = (Wish.NONE, Wish.PAUSED, Wish.FROZEN)


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why a point is to be taken now, and how; false: there is no reason. `due` is when there may be one next."""

    policies: tuple[str, ...] = ()
    late: bool = False
    prefix: str = ""
    asked: Wish = Wish.NONE
    request: str | None = None
    note: str = ""
    due: datetime | None = None
    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.policies) or self.request is not None

    def words(self) -> dict[str, object]:
        """What there is to say of it in a log."""
        said = {"policies": ",".join(self.policies), "late": self.late, "request": self.request}
        return {name: value for name, value in said.items() if value}


NO_OCCASION = Occasion()


def plan_snapshots(
    protection: Protection, scan: Scan, requests: Mapping[str, Request], now: datetime, zone: tzinfo
) -> Occasion:
    """Decide for one guest. `requests` are all that there are."""
    recorded = list(scan.recorded_points(protection.vmid).values())
    due: dict[str, SnapshotPolicy] = {}
    later: list[datetime] = []
    conditions: list[Condition] = []
    late = False
    for name, policy in sorted(protection.snapshots.items()):
        last = _last_run(name, recorded, now)
        at = next_due(last, policy.schedule, policy.every, zone) if last else now
        if at is None:
            continue
        if at > now:
            later.append(at)
        elif held := _no_space(name, policy, protection, scan):
            later.append(now + LOOK_FOR_SPACE)
            conditions.append(held)
        else:
            due[name] = policy
            late = late or now - at > LATE_AFTER
    request = _pending(protection.vmid, recorded, requests)
    return Occasion(
        policies=tuple(due),
        late=late,
        prefix=next((policy.prefix for policy in due.values() if policy.prefix), ""),
        asked=max((policy.consistency for policy in due.values()), key=_STRICTEST_LAST.index, default=Wish.NONE),
        request=request,
        note=requests[request].note if request else "",
        due=min(later, default=None),
        conditions=tuple(conditions),
    )


def _last_run(policy: str, recorded: list[RecoveryPoint], now: datetime) -> datetime | None:
    """The instant of the policy's newest point; None: there is none, or it was dated by a clock that was set back."""
    newest = max((p for p in recorded if policy in p.policies), key=lambda p: p.id, default=None)
    return newest.instant if newest and newest.instant <= now else None


def _pending(vmid: int, recorded: list[RecoveryPoint], requests: Mapping[str, Request]) -> str | None:
    """The oldest request for a snapshot that no point bears the name of."""
    answered = {p.request for p in recorded}
    waiting = [
        (request.asked, id)
        for id, request in requests.items()
        if request.action == "snapshot" and request.vmid == vmid and id not in answered
    ]
    return min(waiting)[1] if waiting else None


def _no_space(name: str, policy: SnapshotPolicy, protection: Protection, scan: Scan) -> Condition | None:
    for pool in sorted({pool_of(disk.dataset) for disk in protection.disks}):
        space = scan.space.get(pool)
        if space is None:
            continue
        least = least_free(policy.min_free, space.total)
        if space.free < least:
            return Condition(
                reason="FreeSpaceGuard",
                message=f"Policy {name} takes no snapshots of guest {protection.vmid}: {space.free >> 20} MiB are free"
                f" on {pool}, and {least >> 20} MiB ({policy.min_free}) are to stay so. What there is stays as its"
                " rules say. Free space there (holdfast snapshot list shows what is kept), or lower min_free.",
            )
    return None
