"""Holdfast on a lab: etcd and a coordinator beside the hosts, an agent on each, steered by the real command line."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .daemon import Daemon
from .guest_writer import start_writer
from .host import Host
from .lab import Lab
from .mixture import check_counters, counters
from .process import HostProcess

CLI = Path(sys.executable).with_name("holdfast")
COORDINATOR = Path(sys.executable).with_name("holdfast-coordinator")


@dataclass(frozen=True)
class Send:
    """One stream that an agent sent, from its log: `base` None was a full one."""

    vmid: int
    disk: str
    base: str | None
    resumed: bool
    bytes: int
    changed: int | None
    """What zfs said was to be sent, in bytes; None where a cut stream was resumed."""


class Cluster:
    """One cluster over the hosts of a lab. Hosts are nodes of their own names; pool `tank` is storage `local-zfs`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.agents: dict[str, HostProcess] = {}
        self._coordinator = Daemon(lab.folder / "coordinator.pid", lab.folder / "coordinator.log", "holdfast-coord")

    def start(self) -> None:
        """With an empty etcd, this checkout's code, and the nodes and the storage applied."""
        self._coordinator.end()
        self.lab.etcd.kill9()
        for before in ("etcd", "coordinator"):
            shutil.rmtree(self.lab.folder / before, ignore_errors=True)
        self.lab.start_etcd()
        settings = self.lab.folder / "coordinator.yaml"
        mine = {"name": "witness", "state": str(self.lab.folder / "coordinator")}
        settings.write_text(json.dumps({**mine, "endpoints": [f"http://{self.lab.etcd.endpoint}"]}))
        self._coordinator.start(self.lab.network.command([str(COORDINATOR), "--config", str(settings)]))
        documents: list[dict[str, Any]] = [
            {"kind": "Storage", "name": "local-zfs", "spec": {"type": "zfspool", "properties": {"pool": "tank"}}}
        ]
        documents += [{"kind": "Node", "name": h.name, "spec": {"address": h.address}} for h in self.lab.hosts]
        self.apply(*documents)
        for host in self.lab.hosts:
            host.deploy()
            self.start_agent(host)

    def stop(self) -> None:
        """Coordinator, agents and etcd; its data stay."""
        self._coordinator.end()
        self.lab.etcd.kill9()
        for agent in self.agents.values():
            agent.kill()

    def start_agent(self, host: Host, **more: Any) -> None:
        """An agent on a host, over whatever state it kept, with more settings if need be."""
        settings = {"node": host.name, "endpoints": [f"http://{self.lab.etcd.endpoint}"], "insecure": True, **more}
        host.put(json.dumps(settings), "/etc/holdfast/agent.yaml")
        self.agents[host.name] = host.spawn("holdfast-agent --verbose --config /etc/holdfast/agent.yaml", "agent")

    # --- the command line

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`holdfast ARGUMENTS`, whatever it exits with."""
        argv = [str(CLI), "--endpoint", f"http://{self.lab.etcd.endpoint}", *arguments]
        return subprocess.run(
            self.lab.network.command(argv), input=stdin, capture_output=True, text=True, timeout=300, check=False
        )

    def apply(self, *documents: dict[str, Any]) -> None:
        """`holdfast apply -f -`; AssertionError unless all are taken."""
        done = self.run("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """`holdfast status -o json`."""
        done = self.run("status", "-o", "json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def guest(self, vmid: int) -> dict[str, Any]:
        """One guest's part of the status."""
        return next(g for g in self.status()["guests"] if g["vmid"] == vmid)

    def wait_for(self, what: Callable[[], bool], timeout: float, why: str) -> float:
        """Poll until `what`; returns the seconds it took. AssertionError with the status and logs otherwise."""
        began = time.monotonic()
        while not what():
            if time.monotonic() - began > timeout:
                raise AssertionError(f"not within {timeout:.0f} s: {why}\n{self.run('status').stdout}\n{self.logs()}")
            time.sleep(1)
        return time.monotonic() - began

    def wait_healthy(self, vmids: Sequence[int], timeout: float = 300.0) -> float:
        """Until the guests' replicas are within their RPO."""
        states = {g["vmid"]: g["state"] for g in self.status()["guests"]}
        return self.wait_for(
            lambda: all(self.guest(v)["state"] == "healthy" for v in vmids), timeout, f"healthy, was {states}"
        )

    def logs(self) -> str:
        """The ends of the coordinator's and the agents' logs."""
        return f"--- coordinator\n{self._coordinator.last_words()}\n" + "\n".join(
            f"--- {h.name}\n{h.run('tail -n 25 /var/log/holdfast/agent.log', check=False)}"
            for h in self.lab.hosts
            if h.machine.runs()
        )

    # --- guests

    def request(self, vmid: int) -> None:
        """Ask for a point at once, as `holdfast replicate --now` does, without its start-up time."""
        # by the owner's clock: a slow host's is behind, and a request from the future waits for its time
        asked = self.lab.hosts[0].run("date -u --iso-8601=ns").strip().replace(",", ".")[:26] + "Z"
        record = {"action": "replicate", "vmid": vmid, "asked": asked, "by": "lab"}
        key = f"/holdfast/default/desired/requests/lab-{vmid}-{time.monotonic_ns()}"
        self.lab.etcd.ctl("put", key, json.dumps(record))

    def add_vm(self, host: Host, vmid: int, disks: int, **more: Any) -> None:
        """A VM with so many zvols of 64 MiB."""
        names = [f"vm-{vmid}-disk-{n}" for n in range(disks)]
        host.run("set -e\n" + "\n".join(f"zfs create -s -V 64M -o volblocksize=16k tank/{name}" for name in names))
        self.apply(guest(vmid, "qemu", host, {f"scsi{n}": name for n, name in enumerate(names)}, **more))

    def add_container(self, host: Host, vmid: int, volumes: int, **more: Any) -> None:
        """A container with so many subvols of 64 MiB."""
        names = [f"subvol-{vmid}-disk-{n}" for n in range(volumes)]
        options = "-o refquota=64M -o acltype=posixacl -o xattr=sa"
        host.run("set -e\n" + "\n".join(f"zfs create {options} tank/{name}" for name in names))
        slots = ["rootfs", *(f"mp{n}" for n in range(volumes - 1))]
        self.apply(guest(vmid, "lxc", host, dict(zip(slots, names, strict=True)), **more))

    def protect(self, rpo: str, target: Host, **more: Any) -> None:
        """One policy for all guests."""
        spec = {"selector": {"all": True}, "targets": [{"node": target.name, **more}], "rpo": rpo}
        self.apply({"kind": "ProtectionPolicy", "name": "all", "spec": spec})

    # --- what must hold

    def records(self, host: Host, vmid: int) -> list[dict[str, Any]]:
        """The records of points on a host's `tank`, newest last: from ZFS, not from Holdfast."""
        listed = host.run(f"zfs get -Hp -s local -o property,value all tank/holdfast/guests/{vmid}", check=False)
        found = [json.loads(v) for k, v in re.findall(r"^(holdfast:point\.\S+)\t(.*)$", listed, re.M)]
        return sorted(found, key=lambda r: (r["epoch"], r["sequence"]))

    def points(self, host: Host, vmid: int) -> list[dict[str, Any]]:
        """Those of which all members are there, all on ZFS."""
        # Before and after: while this looks, a commit may take the place of the only point.
        guids = self._guids(host)
        records = self.records(host, vmid)
        guids |= self._guids(host)
        return [
            r
            for r in records
            if {m["disk"] for m in r["members"]} == set(r["disks"])
            and all(str(m["guid"] % 2**64) in guids for m in r["members"])
        ]

    @staticmethod
    def _guids(host: Host) -> set[str]:
        return set(host.run("zfs list -Hp -t snapshot -o guid").split())

    def check_points(self, host: Host, vmid: int, order: Sequence[str]) -> list[list[int]]:
        """Every complete point on a host shows A >= B >= C >= A - 1 over the disks `order`; returns the counters."""
        found = []
        for point in self.points(host, vmid):
            members = {m["disk"]: f"{m['dataset']}@{m['snapshot']}" for m in point["members"]}
            snapshots = " ".join(sorted(members.values()))
            if host.result(f"zfs hold lab-check {snapshots}").status != 0:
                continue  # superseded since it was listed
            values = counters(host, [members[disk] for disk in order])
            host.run(f"zfs release lab-check {snapshots}")
            check_counters(values, f"guest {vmid}, point {point['epoch']}-{point['sequence']} on {host.name}")
            found.append(values)
        return found

    def sends(self, host: Host) -> list[Send]:
        """Every stream that a host's agents have sent, over all their lives."""
        lines = host.run("cat /var/log/holdfast/agent.log").splitlines()
        entries = [entry for line in lines if (entry := _entry(line))]
        return [
            Send(e["vmid"], e["disk"], e["base"], e["resumed"], e["bytes"], e["changed"])
            for e in entries
            if e.get("event") == "sent"
        ]

    def check_incremental(self, host: Host, since: int) -> None:
        """From stream number `since` on: none was a full one, and none carried more than what had changed."""
        for send in self.sends(host)[since:]:
            assert send.base is not None or send.resumed, f"a full resend: {send}"
            if send.changed is not None:
                assert send.bytes <= 1.2 * send.changed + (1 << 20), f"more than what had changed: {send}"


def _entry(line: str) -> dict[str, Any] | None:
    """A line of a log; None for one that a kill tore."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


def guest(vmid: int, kind: str, host: Host, disks: dict[str, str], **more: Any) -> dict[str, Any]:
    """A Guest document."""
    volumes = {slot: {"volume": f"local-zfs:{name}"} for slot, name in disks.items()}
    definition = "".join(f"{slot}: local-zfs:{name}\n" for slot, name in disks.items())
    spec = {"type": kind, "node": host.name, "disks": volumes, "definition": definition, **more}
    return {"kind": "Guest", "name": vmid, "spec": spec}


def write_to(host: Host, vmid: int, disks: int, **options: Any) -> HostProcess:
    """The A >= B >= C writer on all disks of a guest."""
    if host.run(f"zfs list -Ho name tank/vm-{vmid}-disk-0 2>/dev/null || true"):
        targets = [f"/dev/zvol/tank/vm-{vmid}-disk-{n}" for n in range(disks)]
    else:
        targets = [f"/tank/subvol-{vmid}-disk-{n}" for n in range(disks)]
    return start_writer(host, str(vmid), targets, **options)
