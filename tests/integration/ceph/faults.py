"""Random kills of OSDs, mons, agents, the link and the writer's access: what must hold after each. CI runs three.

More are a soak: `make soak SCENARIO=rbd N=6 SEED=1` (tests/soak/LEDGER.md). Two clusters; two hypervisors in network
namespaces, each with a link to the clusters and etcd and one to the other; on the first a guest of three images that
writes all the time, paused by its monitor for each point.
"""

import asyncio
import contextlib
import functools
import os
import random
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from holdfast.agent.storage.rbd import fence
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph import replica
from integration.ceph.cluster import CephCluster, ceph_running
from integration.ceph.hosts import Link, Namespace, Network
from integration.ceph.processes import Process
from integration.ceph.site import MIB, Guest, Hand, Site, by_hand
from integration.ceph.writer import AREA
from integration.etcd_cluster import EtcdCluster
from integration.etcd_cluster import running as etcd_running

SETTLE = 240.0
"""Seconds until the lag must be back under the RPO: the machine may be busy."""
BALLAST = 3 * AREA // 2
"""Bytes at the end of each image that are written once: a stream of so much is a full one."""
SIZE = 64 * MIB
BANDWIDTH = 8 * MIB
KEEP = 12
"""Points that stay on the target, so that all are read that came about since the fault before."""
INSTALL = Path(__file__).parents[1] / "install.sh"


@dataclass(frozen=True)
class Outcome:
    """One fault and how it went."""

    fault: str
    seconds: float
    """Until the lag was under the RPO again, counted from when the fault ended."""
    points: int
    """Complete points on the target that were of one instant."""
    unsaid: int
    """Those that said that they may be of several: the guest could not be paused for them."""


class Faults:
    """Guest 101 of alpha, replicated to beta under an RPO, and faults thrown at it."""

    def __init__(
        self, site: Site, etcd: EtcdCluster, hosts: dict[str, Namespace], between: Link, seed: int, rpo: float
    ) -> None:
        """`between`: the link of beta to alpha."""
        self._site = site
        self._rpo = rpo
        self._etcd = etcd
        self._between = between
        self._random = random.Random(seed)
        self.longest = 40.0
        """Seconds for which a link is cut at most; half of that for what is killed."""
        self._order, self._images = list(site.disks), list(site.disks.values())
        self.agents = {node: self._agent(node, host) for node, host in hosts.items()}
        self._command = hosts["alpha"].command
        self._writer = self._write()
        self._checked = 0
        home, away = site.home[0], site.away[0]
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9 of the source's OSD": lambda: self._kill_daemon(home, "osd"),
            "kill -9 of the target's OSD": lambda: self._kill_daemon(away, "osd"),
            "kill -9 of the source's mon": lambda: self._kill_daemon(home, "mon"),
            "kill -9 of the target's mon": lambda: self._kill_daemon(away, "mon"),
            "kill -9 of the source's agent": lambda: self._kill_agent("alpha"),
            "kill -9 of the target's agent": lambda: self._kill_agent("beta"),
            "link cut": self._cut_link,
            "fence of the writer": self._fence,
        }

    # --- the two nodes

    @property
    def _monitor(self) -> Path:
        return self._site.home[0].directory / "101.qmp"  # short: a unix socket's path has 107 characters

    def _agent(self, node: str, host: Namespace) -> Process:
        run = self._site.directory / node / "run"
        run.mkdir(exist_ok=True)
        Path("/run/holdfast").mkdir(exist_ok=True)
        own_run = ("sh", "-c", 'mount --bind "$0" /run/holdfast && exec "$@"', str(run))
        qmp = str(self._monitor).replace("101", "{vmid}")
        command = (*host.command, *own_run)
        return Process(self._site, node, command, listen="0.0.0.0", insecure=True, api_port=7421, qmp=qmp)

    def _write(self) -> Guest:
        guest = Guest(self._site.home, self._images, 0.02, self._command, self._monitor)
        self._until(lambda: "writing" in guest.lines(), 60, "the guest writes")
        return guest

    def close(self) -> None:
        """End what runs, however far it came."""
        for agent in self.agents.values():
            with contextlib.suppress(ProcessLookupError):
                agent.kill9()
        self._writer.kill()

    # --- what is looked at

    def _until(self, true: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait for it; returns how long that took. AssertionError with the logs otherwise, or if an agent has ended."""
        began = time.monotonic()
        while not true():
            for agent in self.agents.values():
                agent.check()
            if time.monotonic() - began > seconds:
                logs = "\n".join(f"--- {node}\n{agent.log()[-4000:]}" for node, agent in self.agents.items())
                raise AssertionError(f"not within {seconds:.0f} s: {what}; {self._reasons()}\n{logs}")
            time.sleep(0.1)
        return time.monotonic() - began

    def _reasons(self) -> list[str]:
        """Conditions of the guest, as its owner's agent reports them."""
        key = self._site.keys.guest_report("alpha", 101)
        items = self._etcd.ctl("get", key).get("kvs", [])
        report = orjson.loads(b64decode(items[0]["value"])) if items else {"conditions": [{"reason": "none yet"}]}
        return [c["reason"] for c in report.get("conditions", ())]

    def _healthy(self, away: Hand, since: datetime) -> bool:
        """The newest point on the target is of after `since` and within the RPO, and nobody complains."""
        newest = replica.points(away)[-1:]
        now = datetime.now(UTC)
        in_time = bool(newest) and newest[0].instant > since and (now - newest[0].instant).total_seconds() <= self._rpo
        # a guest that could not be paused is not tried again for a while; its points say `none` until then
        return in_time and not set(self._reasons()) - {"NotPaused"}

    def _check_incremental(self) -> None:
        """Every stream since the first ones began at a base, and brought at most what had changed."""
        sends = self._sends()
        for send in sends[self._checked :]:
            assert send["base"] is not None or send["resumed"], f"a full resend: {send}"
            assert send["bytes"] < BALLAST, f"as much as a full resend: {send}"
            if send["changed"] is not None:
                assert send["bytes"] <= 1.2 * send["changed"] + MIB, f"more than what had changed: {send}"
        self._checked = len(sends)

    def _sends(self) -> list[dict[str, Any]]:
        entries = []
        for line in self.agents["alpha"].log().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):  # a kill may tear a line
                entries.append(orjson.loads(line))
        return [entry for entry in entries if entry.get("event") == "sent"]

    # --- what is done

    def start(self) -> None:
        """The first sync."""
        with by_hand(self._site.away) as away:
            began = datetime.now(UTC)
            self._until(lambda: self._healthy(away, began), SETTLE, "the first sync")
        self._checked = len(self._sends())

    def one(self, kind: str) -> Outcome:
        """Throw one fault, and check everything once it has settled."""
        self._moment()
        self.kinds[kind]()
        ended = datetime.now(UTC)
        with by_hand(self._site.away) as away:
            seconds = self._until(lambda: self._healthy(away, ended), SETTLE, f"the lag is back after {kind}")
            points, unsaid = replica.check_points(away, self._order)
        self._check_incremental()
        return Outcome(kind, seconds, points, unsaid)

    def finish(self) -> None:
        """The guest shuts down; what it wrote last arrives, and nothing is left over."""
        self._writer.end()
        with by_hand(self._site.home) as home, by_hand(self._site.away) as away:
            last = [home.counter(image) for image in self._images]

            def arrived() -> bool:
                newest = replica.points(away)[-1]
                return [away.counter(*newest.members[disk]) for disk in self._order] == last

            self._until(arrived, SETTLE, "the last state of the guest has arrived")
            replica.check_points(away, self._order)

            def left() -> list[str]:
                return [word for hand in (home, away) for word in replica.left_over(hand, self._images)]

            try:
                self._until(lambda: not left(), 4 * self._rpo, "everything is tidy")
            except AssertionError as error:
                raise AssertionError(f"left over: {', '.join(left())}; {error}") from None
        self._check_incremental()
        command = [str(Path(sys.executable).with_name("holdfast")), "--endpoint", f"http://{self._site.endpoints[0]}"]
        command += ["--cluster", self._site.keys.cluster, "leftovers"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert said.stdout.strip() == "Nothing is left over.", said
        assert [agent.end() for agent in self.agents.values()] == [0, 0], "an agent did not stop as it should"

    def _moment(self) -> None:
        """Any moment of a cycle; every other time, while a stream is under way."""
        time.sleep(self._random.uniform(0, self._rpo / 2))
        if self._random.random() < 0.5:
            self._mid_stream()

    def _mid_stream(self) -> None:
        with by_hand(self._site.away) as away:
            self._until(lambda: replica.arriving(away, self._images), SETTLE, "a stream")

    def _kill_daemon(self, cluster: CephCluster, kind: str) -> None:
        cluster.kill9(kind)
        time.sleep(self._random.uniform(0, self.longest / 2))
        cluster.start(kind)
        cluster.wait_healthy()

    def _kill_agent(self, node: str) -> None:
        self.agents[node].kill9()
        time.sleep(self._random.uniform(0, self.longest / 2))
        self.agents[node].start()

    def _cut_link(self) -> None:
        self._mid_stream()
        self._between.cut()
        time.sleep(self._random.uniform(1, self.longest))
        self._between.heal()

    def _fence(self) -> None:
        """In the midst of a write, for it does nothing else. It stops; then the fence is lifted and it is started."""
        writer = self._writer
        with by_hand(self._site.home) as home:
            pool = Pool(home.connection, home.io)
            made = fence.fence(pool, 101, self._images)
            assert made.entries, "nobody was fenced"
            before = [home.read(image, length=AREA) for image in self._images]
            self._until(lambda: writer.process.poll() is not None, 10, "the fenced writer ends")
            time.sleep(1)
            after = [home.read(image, length=AREA) for image in self._images]
            assert before == after, "a fenced writer wrote"
            acknowledged = int([line for line in writer.lines() if line[:1].isdigit()][-1].split()[0])
            assert acknowledged <= int.from_bytes(before[0][:8], "big"), "what was acknowledged is not there"
            fence.lift(pool, made.entries)
        writer.kill()
        self._writer = self._write()


@contextlib.contextmanager
def stage(folder: Path, seed: int, rpo: float) -> Iterator[Faults]:
    """Everything, in order and the guest's first state replicated; gone after the block. `rpo`: seconds."""
    subprocess.run([str(INSTALL)], check=True, timeout=300)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        inner, outer = Network(), Network()
        hosts = {"alpha": Namespace(), "beta": Namespace()}
        for made in (inner, outer, *hosts.values()):
            stack.callback(made.down)
            made.up()
        addresses = [inner.add_here() for _ in range(3)]
        outer.add_here()
        up = functools.partial(_cluster, stack)
        home, away = threads.map(up, addresses[:2])
        etcd = stack.enter_context(etcd_running(EtcdCluster(folder, address=addresses[2])))
        site = Site(etcd.endpoints, folder, (home, "rbd", ""), (away, "rbd", ""))
        for host in hosts.values():
            host.join(inner)
        links = {node: host.join(outer) for node, host in hosts.items()}
        site.addresses = {node: link.address for node, link in links.items()}
        asyncio.run(_define(site, rpo))
        faults = Faults(site, etcd, hosts, links["beta"], seed, rpo)
        stack.callback(faults.close)
        faults.start()
        yield faults


def _cluster(stack: contextlib.ExitStack, address: str) -> CephCluster:
    return stack.enter_context(ceph_running(store="bluestore", address=address))


async def _define(site: Site, rpo: float) -> None:
    async with EtcdStore(site.endpoints) as store:
        await site.define(store, rpo=rpo, size=SIZE, bandwidth=BANDWIDTH, keep=KEEP)
    with by_hand(site.home) as home:
        for image in site.disks.values():
            home.write(image, os.urandom(BALLAST), SIZE - BALLAST)
