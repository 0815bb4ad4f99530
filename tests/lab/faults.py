"""Random kills of agents, hosts, links and etcd while guests write: what must hold after each. CI runs three.

More are a soak: `make soak SCENARIO=replication N=10 SEED=1` (tests/soak/LEDGER.md).
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .cluster import Cluster, write_to
from .host import Host
from .process import HostProcess

RPO = 60.0
GUESTS = {101: ["scsi0", "scsi1", "scsi2"], 102: ["rootfs", "mp0"]}
SETTLE = 300.0
"""Seconds until the lag must be back under the RPO: hosts under emulation run 10 to 20 times slow."""


@dataclass(frozen=True)
class Outcome:
    """One fault and how it went."""

    fault: str
    seconds: float
    """Until both guests were healthy again, counted from when the fault ended."""
    points: int
    """Complete points on the target that were read."""


class Faults:
    """Two guests that write all the time, replicated under an RPO, and faults thrown at them."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._source, self._target = cluster.lab.hosts[:2]
        self._writers: list[HostProcess] = []
        self._checked = 0
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9 of the source's agent": lambda: self._kill_agent(self._source),
            "kill -9 of the target's agent": lambda: self._kill_agent(self._target),
            "power cut of the source": lambda: self._power_cut(self._source),
            "power cut of the target": lambda: self._power_cut(self._target),
            "link cut": self._cut_link,
            "kill -9 of etcd": self._kill_etcd,
            "freeze of the source's agent": lambda: self._freeze(self._source),
            "freeze of the target's agent": lambda: self._freeze(self._target),
        }

    def start(self) -> None:
        """Guests, policy, first sync."""
        cluster = self._cluster
        cluster.add_vm(self._source, 101, 3)
        cluster.add_container(self._source, 102, 2)
        self._write()
        cluster.protect(f"{RPO:.0f}s", self._target, keep={"last": 2})
        cluster.wait_healthy(list(GUESTS), SETTLE)
        self._checked = len(cluster.sends(self._source))

    def one(self, kind: str | None = None) -> Outcome:
        """Throw one fault (a random one, unless told), and check everything once it has settled."""
        fault = kind or self._random.choice(sorted(self.kinds))
        time.sleep(self._random.uniform(0, RPO / 2))  # at any moment of a cycle
        before = {vmid: self._newest(vmid) for vmid in GUESTS}
        self.kinds[fault]()
        began = time.monotonic()
        cluster = self._cluster
        cluster.wait_for(
            lambda: all(self._newest(v) > before[v] for v in GUESTS), SETTLE, f"points move on after {fault}"
        )
        cluster.wait_healthy(list(GUESTS), SETTLE)
        seconds = time.monotonic() - began
        points = [p for v, order in GUESTS.items() for p in cluster.check_points(self._target, v, order)]
        cluster.check_incremental(self._source, self._checked)
        return Outcome(fault, seconds, len(points))

    def _newest(self, vmid: int) -> tuple[int, int]:
        points = self._cluster.points(self._target, vmid)
        return (points[-1]["epoch"], points[-1]["sequence"]) if points else (0, 0)

    def _write(self) -> None:
        for writer in self._writers:
            writer.kill()
        self._writers = [
            write_to(self._source, vmid, len(disks), pause=0.3, payload=16384) for vmid, disks in GUESTS.items()
        ]

    def _kill_agent(self, host: Host) -> None:
        self._cluster.agents[host.name].kill()
        time.sleep(self._random.uniform(0, 5))
        self._cluster.start_agent(host)

    def _power_cut(self, host: Host) -> None:
        host.power_cut()
        host.power_on()
        if host is self._source:
            host.run("zfs mount -a")  # as Proxmox does when a container starts
            self._write()
        self._cluster.start_agent(host)

    def _cut_link(self) -> None:
        self._source.cut(self._target)
        time.sleep(self._random.uniform(5, 40))
        self._source.heal(self._target)

    def _kill_etcd(self) -> None:
        self._cluster.lab.kill9_etcd()
        time.sleep(self._random.uniform(0, 20))
        self._cluster.lab.start_etcd()

    def _freeze(self, host: Host) -> None:
        agent = self._cluster.agents[host.name]
        agent.sigstop()
        time.sleep(self._random.uniform(5, 40))
        agent.sigcont()


def covering(seed: int, count: int, kinds: Sequence[str]) -> list[str]:
    """So many faults in a random order, each kind once before any comes twice."""
    chosen: list[str] = []
    generator = random.Random(seed)
    while len(chosen) < count:
        chosen += generator.sample(sorted(kinds), len(kinds))
    return chosen[:count]
