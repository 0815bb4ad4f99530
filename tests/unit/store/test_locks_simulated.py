"""Locks on the simulator's etcd and virtual time, under kills, stalls, cut links and lost answers drawn from a seed.

What must hold at every moment: an effect happens only while its holder's lock is there; tokens of one guest only grow;
whoever claims has the oldest ticket; and when the faults stop, everybody gets what he asked for.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.locks import Held, Locks
from holdfast.coordinator.store.port import (
    Compare,
    LeaseLost,
    Operation,
    OutcomeUnknown,
    Put,
    TransactionResult,
    Unavailable,
)
from sim.etcd import Etcd
from sim.loop import Process
from sim.store import Service, SimStore
from sim.wire import Network
from sim.world import Machine, SimHost, World
from sim.zfs import Storage

KEYS = Keyspace()
GUESTS = (101, 102, 1010)  # the keys of one of them begin like another's
HOLDERS = ("h1", "h2", "h3", "h4")
ROUNDS = 4
TTL = 10.0
TROUBLE, END = 120.0, 600.0  # seconds of virtual time


class Checks:
    """Looks at every change of the store."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.last: dict[int, int] = {}
        self.claims = self.guarded = self.refused = self.effects = 0
        self.problems: list[str] = []
        carry_out = etcd.transact

        def transact(
            compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
        ) -> TransactionResult:
            done = carry_out(compares, success, failure)
            if done.succeeded:
                for operation in success:
                    if isinstance(operation, Put):
                        self.put(operation)
            elif success and isinstance(success[0], Put) and success[0].key.startswith("/data/"):
                self.refused += 1
            return done

        etcd.transact = transact  # type: ignore[method-assign]

    def put(self, operation: Put) -> None:
        items = self.etcd.items
        for vmid in GUESTS:
            if operation.key == KEYS.lock(vmid):
                self.claims += 1
                tickets = [item for key, item in items.items() if key.startswith(KEYS.lock_queue(vmid))]
                oldest = min(tickets, key=lambda ticket: ticket.create_revision)
                if oldest.lease != operation.lease:
                    self.problems.append(f"{vmid}: claimed before {oldest.key}")
            if operation.key == f"/data/{vmid}":
                self.guarded += 1
                self.check(vmid, int(operation.value))

    def check(self, vmid: int, token: int) -> None:
        """Something is done under a token."""
        lock = self.etcd.items.get(KEYS.lock(vmid))
        if lock is None or lock.create_revision != token:
            self.problems.append(f"{vmid}: done under {token}, but the lock is {lock}")
        if token < self.last.get(vmid, 0):
            self.problems.append(f"{vmid}: {token} after {self.last[vmid]}")
        self.last[vmid] = token


class Run:
    """Holders that take locks again and again, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed)
        self.network = Network(self.world, 1e9)
        self.service = Service(self.world, self.network)
        self.checks = Checks(self.service.etcd)
        self.done = dict.fromkeys(HOLDERS, 0)
        self.lost = 0
        self.processes: dict[str, Process] = {}
        for name in HOLDERS:
            self.world.machines[name] = Machine(name, Storage(name, self.world.rng))
            self.start(name)
        for _ in range(self.rng.randrange(4, 14)):
            self.world.loop.after(self.rng.uniform(0, TROUBLE), self.strike)
        self.world.loop.run(END)
        # processes that were killed are still where they were: what closing them says is of no interest
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            self.world.loop.discard()
        finally:
            sys.unraisablehook = hook

    def start(self, name: str) -> None:
        machine = self.world.machines[name]
        store = SimStore(self.service, machine, "lock")
        locks = Locks(store, KEYS, name, SimHost(self.world, machine), ttl=TTL)
        self.processes[name] = self.world.spawn(machine, name, self.holder(name, locks))

    async def holder(self, name: str, locks: Locks) -> None:
        while self.done[name] < ROUNDS:
            wanted = self.rng.sample(GUESTS, self.rng.choice((1, 1, 2, 3)))
            try:
                await locks.run(wanted, "a test", self.work)
                self.done[name] += 1
            except (LeaseLost, Unavailable):
                self.lost += 1
            await asyncio.sleep(self.rng.uniform(0, 1))

    async def work(self, held: Held) -> None:
        tokens = {int(key.rpartition("/")[2]): token for key, token in held.tokens.items()}
        for _ in range(self.rng.randrange(1, 5)):
            await asyncio.sleep(self.rng.uniform(0, 4))
            if held.valid():  # an effect that etcd cannot guard
                for vmid, token in tokens.items():
                    self.checks.effects += 1
                    self.checks.check(vmid, token)
            try:
                await held.transact([], [Put(f"/data/{vmid}", b"%d" % token) for vmid, token in tokens.items()])
            except OutcomeUnknown:
                continue

    def strike(self) -> None:
        name, loop, rng = self.rng.choice(HOLDERS), self.world.loop, self.rng
        process = self.processes[name]
        match rng.choice(("kill", "stop", "cut", "deaf", "lose", "leader")):
            case "kill" if process.alive:
                loop.kill(process)
                loop.after(rng.uniform(0, 20), self.start, name)
            case "stop" if process.alive:
                process.stopped = True
                loop.after(rng.uniform(1, 30), loop.go_on, process)
            case "cut":
                self.network.cut(name, "etcd")
                loop.after(rng.uniform(1, 20), self.network.heal, name, "etcd")
            case "deaf":
                self.network.cut("etcd", name)
                loop.after(rng.uniform(1, 20), self.network.heal, "etcd", name)
            case "lose":
                self.service.lose[name] = rng.randrange(1, 4)
            case "leader":
                self.service.etcd.new_leader()


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_locks_exclude_are_fair_and_end_whatever_happens(start: int) -> None:
    counts: dict[str, Any] = dict.fromkeys(("claims", "guarded", "refused", "effects", "lost"), 0)
    for seed in range(start, start + 20):
        run = Run(seed)
        assert run.checks.problems == [], f"seed {seed}"
        assert set(run.done.values()) == {ROUNDS}, f"seed {seed}: {run.done}"
        left = [key for key in run.service.etcd.items if "/locks/" in key]
        assert left == [], f"seed {seed}"
        counts["lost"] += run.lost
        for name in ("claims", "guarded", "refused", "effects"):
            counts[name] += getattr(run.checks, name)
    assert all(counts.values()), f"something never happened: {counts}"
