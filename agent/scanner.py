"""One scan serves all who ask at the same time, and all who can do with a recent one."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from holdfast.agent.ports import Host, Volumes
from holdfast.coordinator.planning.observed import Scan

RECENT = 2.0
"""Seconds for which a scan may serve again, for guests of which nothing was changed since it began."""
SESSION = 15.0
"""Seconds for which a target's scan serves what zfs checks again: streams by their GUIDs, changes under an epoch."""
LAST_SEEN = float("inf")
"""However old: whatever this agent changes of a guest it knows, and a point that is due is decided on a fresh look."""


class Scanner:
    """Shares scans between guests. Whoever changes a guest's volumes says so: by `changed`, or by `amend` if known."""

    def __init__(self, volumes: Volumes, host: Host) -> None:
        self._volumes = volumes
        self._host = host
        self._latest: tuple[float, Scan] | None = None
        self._amended: dict[int, tuple[float, Scan]] = {}
        self._changed: defaultdict[int, float] = defaultdict(lambda: float("-inf"))
        self._one_at_a_time = asyncio.Lock()

    def changed(self, vmid: int) -> None:
        """What was scanned of this guest is out of date now."""
        self._amended.pop(vmid, None)
        self._changed[vmid] = self._host.monotonic()

    def amend(self, vmid: int, scan: Scan) -> None:
        """What a scan of this guest would show now."""
        now = self._host.monotonic()
        self._amended[vmid] = (now, scan)
        self._changed[vmid] = now

    @property
    def has_looked(self) -> bool:
        """Whether anything is known of this node's storage."""
        return self._latest is not None

    @property
    def failed(self) -> Mapping[str, str]:
        """Pool → why the latest look could not see it."""
        return self._latest[1].failed if self._latest else {}

    def anchors(self) -> set[tuple[str, int]]:
        """(pool, VMID) of everything that is marked on this node, as last seen."""
        seen = [scan for _, scan in (*self._amended.values(), *([self._latest] if self._latest else []))]
        return {key for scan in seen for key in scan.anchors}

    def known(self, vmid: int) -> Scan | None:
        """The newest that is known of a guest, without looking; None before the first look."""
        known = [seen for seen in (self._amended.get(vmid), self._latest) if seen is not None]
        return max(known, key=lambda seen: seen[0])[1] if known else None

    async def look(self, vmid: int, age: float = RECENT) -> Scan:
        """What is there after the guest's last change, seen at most `age` seconds ago. Raises VolumesError."""
        oldest = self._host.monotonic() - age
        if fresh := self._fresh(vmid, oldest):
            return fresh
        async with self._one_at_a_time:
            if fresh := self._fresh(vmid, oldest):  # another's look, which has just ended
                return fresh
            began = self._host.monotonic()
            scan = await self._volumes.scan()
            self._latest = (began, scan)
            return scan

    def _fresh(self, vmid: int, oldest: float) -> Scan | None:
        known = [seen for seen in (self._amended.get(vmid), self._latest) if seen is not None]
        fresh = [seen for seen in known if seen[0] > oldest and seen[0] >= self._changed[vmid]]
        return max(fresh, key=lambda seen: seen[0])[1] if fresh else None
