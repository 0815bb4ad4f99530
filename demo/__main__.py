"""`make demo`: two hosts with real OpenZFS, an etcd, Holdfast; and what becomes of a guest's disks when things break.

Whatever is printed as a command is what really ran. Ends with status 0 only if everything was as it says.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from demo.screen import CHECKOUT, NotAsSaid, environment, here, mib, on, say, shown, wait
from tests.lab.guest_writer import start_writer
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.mixture import check_point
from tests.lab.recorder import Recorder

EXAMPLE = "examples/two-nodes.yaml"
VMID = 101
RPO = 60
"""Seconds, as the example has it."""
KEYS = "/holdfast/default/agents"
DISKS = [f"tank/vm-{VMID}-disk-{n}" for n in range(3)]
BULK_MIB = 16
PATIENCE = 180
"""Seconds for what takes a few on an idle machine: emulated hosts are 10 to 20 times slower than real ones."""


def main() -> None:
    """Run it, and clean up whatever happens."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "demo"))
    failed = None
    try:
        run(lab)
    except (NotAsSaid, RuntimeError, AssertionError, OSError) as error:
        failed = error
        tell_logs(lab)
    finally:
        say("cleaning up: hosts, etcd, network and disks of the lab")
        lab.down()
    if failed is not None:
        sys.exit(f"\nThe demo FAILED: {failed}")
    say("done, and everything was as said")


def run(lab: Lab) -> None:
    """The whole story."""
    say("two virtual hosts with real OpenZFS, and an etcd beside them")
    lab.up(2)
    lab.start_etcd()
    with coordinator(lab), Recorder([host.machine for host in lab.hosts]) as recorder:
        start_agents(lab.hosts)
        begin(lab.hosts[0], recorder)
        first_replica(lab)
        cut_in_mid_transfer(lab)
        lose_the_source(lab, recorder)


def tell_logs(lab: Lab) -> None:
    """What the agents that still can be asked had to say."""
    for host in lab.hosts:
        if host.machine.runs():
            print(
                f"\n{host}, the end of the agent's log:",
                host.run("tail -n 30 /var/log/holdfast/agent.log", check=False),
            )


@contextmanager
def coordinator(lab: Lab) -> Iterator[None]:
    """Holdfast's coordinator beside etcd, as long as the block runs."""
    with (lab.folder / "coordinator.log").open("w") as log:
        ours = environment() | {"HOLDFAST_STATE": str(lab.folder / "coordinator")}
        process = subprocess.Popen(["holdfast-coordinator"], env=ours, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def start_agents(hosts: list[Host]) -> None:
    """Deploy this checkout's code and start an agent on each host."""
    say("Holdfast: a coordinator beside etcd, an agent on each host")
    with ThreadPoolExecutor() as both:
        list(both.map(start_agent, hosts))
    for host in hosts:
        wait(f"the agent of {host}", PATIENCE, lambda host=host: progress(host))  # type: ignore[misc]


def start_agent(host: Host) -> None:
    """Most of its time is the emulated host's, so hosts are done side by side."""
    host.deploy()
    host.put("endpoints: [http://10.77.0.254:2379]\ninsecure: true\n", "/etc/holdfast/agent.yaml")
    print(f"{host.name}# holdfast-agent --config /etc/holdfast/agent.yaml &", flush=True)
    host.spawn("holdfast-agent --config /etc/holdfast/agent.yaml", "agent")


def begin(source: Host, recorder: Recorder) -> None:
    """A guest that writes, and the desired state."""
    say("a guest's three disks; its software writes one counter to scsi0, scsi1, scsi2 in turn, with fsync")
    on(source, "\n".join(f"zfs create -s -V 128M {disk}" for disk in DISKS))
    start_writer(source, str(VMID), [f"/dev/zvol/{disk}" for disk in DISKS], payload=2000, pause=0.1)
    recorder.wait_for(str(VMID), 5, PATIENCE)
    say("what is wanted, as records")
    here(f"cat {EXAMPLE}")
    here(f"holdfast apply -f {EXAMPLE}")


def first_replica(lab: Lab) -> None:
    """Nobody made a replication job: the agents do what is wanted."""
    say("the agents take it from there")
    wait("the first point on the target", PATIENCE, lambda: last_point(lab))
    wait("the target's own report", PATIENCE, lambda: lab.etcd.ctl("get", f"{KEYS}/host2/replicas/{VMID}") or None)
    here("holdfast status")
    here(f"holdfast points {VMID}")


def cut_in_mid_transfer(lab: Lab) -> None:
    """The stream is cut; the rest of it is sent later, not all of it."""
    source, target = lab.hosts
    say(f"{BULK_MIB} MiB of new data on scsi1, and the policy lets 2 MiB/s through: replication with its progress")
    on(source, f"head -c {BULK_MIB}M /dev/urandom |"
       f" dd of=/dev/zvol/{DISKS[1]} bs=1M seek=64 iflag=fullblock conv=fsync status=none")  # fmt: skip
    here(f"holdfast replicate {VMID} --now --no-wait")
    with shown("holdfast status --watch"):
        wait("the transfer of scsi1", PATIENCE, lambda: bulk(source), 0.1)
        before = wait("half of scsi1", PATIENCE, lambda: half(source))
    say("the link between the two hosts is cut, in mid-transfer")
    source.cut(target)
    committed = last_point(lab)
    wait("word of the broken link", PATIENCE, lambda: broken(lab))
    here("holdfast status")
    say("the link is whole again: the rest of the stream follows")
    source.heal(target)
    rest = resumed(source)
    on(source, 'grep -o \'"step":"[^"]*the rest of a stream[^"]*\' /var/log/holdfast/agent.log | tail -n 1')
    sent, total = before["bytes"], before["total"]
    say(f"scsi1: {mib(sent)} of {mib(total)} had been sent before the cut, {mib(rest)} after it")
    if sent + rest > 1.2 * total + 2**20:
        raise NotAsSaid(f"sent {mib(sent)} + {mib(rest)} of {mib(total)}: that is no resumption")
    wait("the point's commit", PATIENCE, lambda: newer_point(lab, committed))


def lose_the_source(lab: Lab, recorder: Recorder) -> None:
    """What is left is on the target's own storage."""
    source, target = lab.hosts
    say("the replica catches up")
    wait("a point within the RPO", PATIENCE, lambda: fresh(lab))
    here("holdfast status")
    say(f"the power of {source} is cut while the guest writes")
    source.power_cut()
    acknowledged = recorder.writes(str(VMID))
    newest = last_point(lab)
    wait("the target's own report of it", PATIENCE, lambda: told(lab, newest))
    here(f"holdfast points {VMID}")
    say(f"point {newest} as it is marked on the storage of {target}, whatever becomes of etcd; and what its disks hold")
    anchor = f"tank/holdfast/guests/{VMID}"
    point = json.loads(on(target, f"zfs get -H -o value holdfast:point.{newest} {anchor}"))
    slots = [f"scsi{n}" for n in range(3)]
    members = {member["disk"]: f"{member['dataset']}@{member['snapshot']}" for member in point["members"]}
    counters = check_point(target, [members[slot] for slot in slots])
    for slot, counter in zip(slots, counters, strict=True):
        print(f"{members[slot]}: {slot} holds counter {counter}")
    kept_until = max(write.at for write in acknowledged if write.counter <= counters[-1])
    lost = acknowledged[-1].at - kept_until
    say(f"one instant (scsi0 >= scsi1 >= scsi2 >= scsi0 - 1): the guest would start with {counters[-1]};"
        f" {acknowledged[-1].counter} had been acknowledged")  # fmt: skip
    say(f"the replica was {lost:.0f} s old when the power went, wanted: at most {RPO} s")
    if lost > RPO:
        raise NotAsSaid(f"the replica was {lost:.0f} s old, more than the {RPO} s that the policy allows")


def progress(host: Host) -> list[dict[str, Any]] | None:
    """The transfers that an agent says it runs; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{host.address}:7421/v1/progress", timeout=5) as reply:
            transfers: list[dict[str, Any]] = json.load(reply)["transfers"]
            return transfers
    except OSError:
        return None


def bulk(source: Host) -> dict[str, Any] | None:
    """The transfer of scsi1 while it runs."""
    return next((t for t in progress(source) or [] if t["disk"] == "scsi1"), None)


def half(source: Host) -> dict[str, Any] | None:
    """The transfer of scsi1 once 40 % have been sent. Raises NotAsSaid where it is over."""
    transfer = bulk(source)
    if transfer is None:
        raise NotAsSaid("the transfer of scsi1 ended before it could be cut: is there too little new data?")
    if not sys.stdout.isatty():  # where `status --watch` prints only what is new
        done, of = transfer["bytes"], transfer["total"]
        print(f"scsi1: {mib(done)} of {mib(of)}, {mib(transfer['bytes_per_second'])}/s", flush=True)
    return transfer if transfer["bytes"] >= 0.4 * transfer["total"] else None


def resumed(source: Host) -> int:
    """Bytes that the resumed transfer of scsi1 has sent when it ends."""
    wait("the transfer to go on", PATIENCE, lambda: bulk(source), 0.1)
    sent, deadline = 0, time.monotonic() + PATIENCE
    while (transfer := bulk(source)) is not None and time.monotonic() < deadline:
        sent = max(sent, transfer["bytes"])
        time.sleep(0.1)
    return sent


def fresh(lab: Lab) -> bool | None:
    """Whether the target's last point is younger than the RPO."""
    last = next((target.get("last") for target in report(lab).get("targets", ())), None)
    return (last and datetime.now(UTC) - datetime.fromisoformat(last["instant"]) < timedelta(seconds=RPO)) or None


def report(lab: Lab) -> dict[str, Any]:
    """What the owner's agent has written about the guest: polled, because it costs less than `holdfast status`."""
    value = lab.etcd.ctl("get", f"{KEYS}/host1/guests/{VMID}", "--print-value-only")
    found: dict[str, Any] = json.loads(value or "{}")
    return found


def last_point(lab: Lab) -> str | None:
    """The newest point that the target has committed."""
    last = next((target.get("last") for target in report(lab).get("targets", ())), None)
    return f"{last['epoch']}-{last['sequence']}" if last else None


def newer_point(lab: Lab, than: str | None) -> str | None:
    """The newest point that the target has committed, if it is another one."""
    point = last_point(lab)
    return point if point != than else None


def told(lab: Lab, point: str | None) -> bool | None:
    """Whether the target has reported a point: its reports are up to a quarter of the RPO apart."""
    value = lab.etcd.ctl("get", f"{KEYS}/host2/replicas/{VMID}", "--print-value-only")
    points = [f"{p['epoch']}-{p['sequence']}" for p in json.loads(value or '{"points": []}')["points"]]
    return point in points or None


def broken(lab: Lab) -> bool | None:
    """Whether the owner's agent tells of the cut."""
    reasons = {condition["reason"] for condition in report(lab)["conditions"]}
    return bool(reasons & {"TargetUnreachable", "TransferFailed"}) or None


if __name__ == "__main__":
    os.chdir(CHECKOUT)
    main()
