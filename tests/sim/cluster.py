"""The cluster of one run: real agents and coordinators on simulated machines, and people who write desired state."""

import functools
import random
import uuid
from collections.abc import Callable
from typing import Any

from holdfast.agent.agent import Agent
from holdfast.agent.config import AgentSettings
from holdfast.agent.ports import Volumes
from holdfast.coordinator.config import CoordinatorSettings
from holdfast.coordinator.grouped import first
from holdfast.coordinator.main import coordinate
from holdfast.coordinator.model.guest import Disk, Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.policy import ProtectionPolicy, Target
from holdfast.coordinator.model.selector import Selector
from holdfast.coordinator.model.storage import Storage as StorageRecord
from holdfast.coordinator.planning.observed import is_rbd

from .ceph import Ceph, NodeStorage
from .guests import Pace, SimGuest, SimPause
from .loop import Process
from .rbd import SimNodeVolumes
from .schedule import GuestSpec, Schedule
from .store import Service, SimStore
from .volumes import SimVolumes
from .wire import Network, SimWire
from .world import TXG, Machine, SimHost, WitnessHost, World
from .zfs import Audit, Storage

KEYS = Keyspace()
POOLS = {"local-zfs": "tank", "fast-zfs": "fast"}
CEPH = "ceph"
"""The storage of guests' images; each node's replicas are on one of their own, `ceph-NODE`."""
RESTART = 2.0
"""Seconds after which the service manager starts again what ended."""


@functools.cache
def _agent_settings(node: str, transfers: int) -> AgentSettings:
    return AgentSettings(node=node, transfers=transfers)


@functools.cache
def _coordinator_settings(name: str) -> CoordinatorSettings:
    return CoordinatorSettings(name=name)


class Cluster:
    """Builds the world of a schedule, and starts and stops what runs in it."""

    def __init__(self, schedule: Schedule, *, trace: bool = False, faulty: frozenset[str] = frozenset()) -> None:
        self.schedule = schedule
        self.world = world = World(schedule.seed, trace=trace)
        self.network = Network(world, schedule.bandwidth)
        self.service = Service(world, self.network)
        self.nodes = [f"n{i + 1}" for i in range(schedule.nodes)]
        self.witnesses = [f"w{i + 1}" for i in range(schedule.coordinators)]
        self.agents: dict[str, Agent] = {}
        self.running: dict[str, Process] = {}
        self.guests: dict[int, SimGuest] = {}
        self.specs: dict[int, GuestSpec] = {}
        self.definitions: dict[int, int] = {}
        self.rollbacks: set[str] = set()
        """Requests that are not settled yet."""
        self.rpo = schedule.rpo
        self.on_exit: Callable[[str, BaseException | None], None] = lambda name, error: None
        self.ceph = Ceph(world.rng) if any(spec.rbd for spec in schedule.guests) else None
        for storeid in self.ceph_storages:
            assert self.ceph is not None
            self.ceph.now, self.ceph.users = world.wall, self._clients
            self.ceph.add_pool(storeid)
        for name in (*self.nodes, *self.witnesses):
            storage = Storage(name, world.rng, faulty=faulty)
            if self.ceph is not None and name in self.nodes:
                storage = NodeStorage(name, world.rng, self.ceph, faulty=faulty)
            world.machines[name] = Machine(name, storage, schedule.rates.get(name, 1.0))
        for spec in schedule.guests:
            self._add_guest(spec)
        world.loop.after(TXG, self._group)

    @property
    def ceph_storages(self) -> list[str]:
        """Of Ceph; none if nobody uses it."""
        return [CEPH, *(f"{CEPH}-{name}" for name in self.nodes)] if self.ceph is not None else []

    def watched_by(self, audit: Audit) -> None:
        """Tell somebody what happens on the storages."""
        for machine in self.world.machines.values():
            machine.storage.audit = audit

    def _group(self) -> None:
        for name in self.nodes:
            machine = self.world.machines[name]
            if machine.powered and not machine.storage.suspended:
                machine.storage.sync()
        self.world.loop.after(TXG, self._group)

    def _add_guest(self, spec: GuestSpec) -> None:
        machine = self.world.machines[spec.node]
        pace = Pace(spec.every, spec.count, spec.rests)
        guest = SimGuest(self.world, spec.vmid, spec.kind, machine, pace)
        for index in range(spec.disks):
            dataset = self.dataset(spec, index)
            guest.disks[self.slot(spec, index)] = dataset
            made = machine.storage.create(dataset, self.zfs_kind(spec), 1 << 30, written=spec.written)
            if spec.kind == "lxc" and not is_rbd(dataset):
                made.properties["refquota"] = str(1 << 30)
        if spec.still:
            dataset = f"tank/{self.volname(spec, 9)}"
            guest.still["efidisk0" if spec.kind == "qemu" else "mp9"] = dataset
            machine.storage.create(dataset, self.zfs_kind(spec), 1 << 20, written=500_000)
        self.guests[spec.vmid] = guest
        machine.users = self._users
        self.specs[spec.vmid] = spec
        self.definitions[spec.vmid] = 1

    def _users(self, vmid: int) -> tuple[str, ...]:
        guest = self.guests[vmid]
        return () if guest.off or not guest.machine.powered else (f"guest {vmid}",)

    def _clients(self, dataset: str) -> tuple[str, ...]:
        return tuple(
            f"10.0.0.{vmid}:0/1"
            for vmid, guest in self.guests.items()
            if dataset in guest.disks.values() and not guest.off and guest.machine.powered
        )

    def dataset(self, spec: GuestSpec, index: int) -> str:
        """Of the disk of this number."""
        if spec.rbd and index >= spec.disks - spec.rbd:
            return f"rbd:{CEPH}/vm-{spec.vmid}-disk-{index}"
        pool = "fast" if spec.spread and index == spec.disks - 1 else "tank"
        return f"{pool}/{self.volname(spec, index)}"

    @staticmethod
    def zfs_kind(spec: GuestSpec) -> str:
        return "volume" if spec.kind == "qemu" else "filesystem"

    @staticmethod
    def slot(spec: GuestSpec, index: int) -> str:
        return f"scsi{index}" if spec.kind == "qemu" else ("rootfs", "mp0", "mp1", "mp2", "mp3")[index]

    @staticmethod
    def volname(spec: GuestSpec, index: int) -> str:
        return f"{'vm' if spec.kind == 'qemu' else 'subvol'}-{spec.vmid}-disk-{index}"

    # --- desired state, as people write it

    def put(self, folder: str, name: str | int, value: bytes) -> None:
        self.service.etcd.put(KEYS.desired(folder, name), value)

    def write_all(self) -> None:
        for name in self.nodes:
            self.put_node(name)
        for storeid, pool in POOLS.items():
            record = StorageRecord(type="zfspool", properties={"pool": pool})
            self.put("storage", storeid, record.to_json())
        for storeid in self.ceph_storages:
            record = StorageRecord(type="rbd", shared=True, properties={"pool": storeid, "monhost": "10.0.0.1"})
            self.put("storage", storeid, record.to_json())
        for vmid in self.guests:
            self.put_guest(vmid)
        self.put_policy()

    def put_node(self, name: str, *, maintenance: bool = False) -> None:
        self.put("nodes", name, Node(address=name, maintenance=maintenance).to_json())

    def put_guest(self, vmid: int) -> None:
        self.put("guests", vmid, self.guest_record(vmid).to_json())

    def guest_record(self, vmid: int) -> Guest:
        guest, spec = self.guests[vmid], self.specs[vmid]
        storeid = {pool: store for store, pool in POOLS.items()}
        disks = {}
        for slot, dataset in {**guest.disks, **guest.still}.items():
            pool, _, volname = dataset.partition("/")
            disks[slot] = Disk(volume=f"{storeid.get(pool, CEPH)}:{volname}")
        definition = f"name: guest{vmid}\nversion: {self.definitions[vmid]}\n"
        return Guest(type=spec.kind, node=spec.node, disks=disks, definition=definition)  # type: ignore[arg-type]

    def policy(self, rpo: float | None = None, bandwidth: int | None = None) -> ProtectionPolicy:
        targets = tuple(
            Target(
                node=name,
                keep=f"last={self.schedule.keep}",  # type: ignore[arg-type]
                bandwidth=bandwidth,
                storages={CEPH: f"{CEPH}-{name}"} if self.ceph is not None else {},
            )
            for name in self.nodes
        )
        return ProtectionPolicy(selector=Selector(all=True), targets=targets, rpo=rpo or self.rpo)

    def put_policy(self, **changes: Any) -> None:
        self.put("policies", "standard", self.policy(**changes).to_json())

    # --- processes and power

    def start(self) -> None:
        self.write_all()
        for name in (*self.witnesses, *self.nodes):
            self.start_process(name)
        for guest in self.guests.values():
            guest.boot()

    def start_process(self, name: str) -> None:
        """Start a machine's agent or coordinator, if it is powered and none runs."""
        machine = self.world.machines[name]
        running = self.running.get(name)
        if not machine.powered or (running is not None and running.alive):
            return
        store = SimStore(self.service, machine, "decide" if name in self.witnesses else "report")
        host = (
            WitnessHost(self.world, machine)
            if name in self.witnesses
            else SimHost(self.world, machine, lambda vmid: SimPause(self.world, self.guests[vmid]))
        )
        if name in self.witnesses:
            rng = random.Random(f"{self.schedule.seed} {name}")
            made = coordinate(
                store, _coordinator_settings(name), host, lambda: uuid.UUID(int=rng.getrandbits(128), version=4)
            )
        else:
            wire = SimWire(self.network, machine, self.world.machines)
            volumes: Volumes = SimVolumes(self.world, machine)
            if self.ceph is not None:
                volumes = joined = SimNodeVolumes(self.world, machine, self.ceph)
            self.agents[name] = agent = Agent(
                _agent_settings(name, self.schedule.transfers), store, volumes, wire, host
            )
            if self.ceph is not None:
                joined.storages, joined.token = agent.storages, agent.token
            made = agent.run()
        self.world.tell(name, "started")
        self.running[name] = self.world.spawn(machine, name, self._watched(name, made))

    async def _watched(self, name: str, made: Any) -> None:
        error: BaseException | None = None
        try:
            await made
        except GeneratorExit:  # the run is over
            raise
        except BaseException as reason:
            error = first(reason)
        self.world.tell(name, "ended", error=repr(error))
        self.on_exit(name, error)

    def kill(self, name: str) -> None:
        """kill -9 of the agent or coordinator."""
        process = self.running.get(name)
        if process is not None and process.alive:
            self.world.tell(name, "killed")
            self.world.loop.kill(process)

    def power_off(self, name: str) -> None:
        machine = self.world.machines[name]
        if machine.powered:
            machine.powered = False
            self.world.tell(name, "power cut")
            self.kill(name)
            machine.stuck.clear()
            machine.storage.power_cut()
            for guest in self.guests.values():
                if guest.machine is machine:
                    guest.halt()

    def power_on(self, name: str) -> None:
        machine = self.world.machines[name]
        if not machine.powered:
            machine.powered = True
            machine.booted = self.world.now
            machine.jump += 0.0
            self.world.tell(name, "power on")
            for guest in self.guests.values():
                if guest.machine is machine:
                    guest.boot()
            self.start_process(name)

    def resume_pool(self, name: str) -> None:
        machine = self.world.machines[name]
        machine.storage.suspended = False
        stuck, machine.stuck = machine.stuck, []
        for command in stuck:
            command()
