"""What a replication cycle costs, against the floor in the same run: `make bench`, in a lab of two hosts.

N volumes of which k changed. Counted by the kernel's trace of exec, on both hosts together:
  floor     one `zfs snapshot` of all, one send and one recv for each changed volume, by hand over TCP
  Holdfast  everything that the two agents start in a cycle: scan, point, holds, streams, commit, cleanup
Promise: at most 8 + 6k zfs processes, none for an idle volume; wall time within 4 x the floor.
"""

import os
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from lab.cluster import Cluster, guest  # noqa: E402 - the lab is no installed package
from lab.host import Host  # noqa: E402
from lab.lab import Lab  # noqa: E402

VOLUMES = 20
CHANGED = 4
ROUNDS = 3
SHAPES = {"1 guest of 20 disks": 1, "4 guests of 5 disks": 4, "20 guests of 1 disk": 20}
"""How the volumes are spread over guests."""


def change(source: Host, names: list[str]) -> None:
    """4 MiB in each, on disk."""
    source.run(
        "set -e\n"
        + "\n".join(
            f"dd if=/dev/urandom of=/dev/zvol/tank/{name} bs=1M count=4 oflag=direct status=none" for name in names
        )
        + "\nzpool sync tank"
    )


def floor(source: Host, target: Host, names: list[str], round_: int) -> tuple[int, float]:
    """(zfs processes, seconds) of the same work by hand: volumes `f-*`, incremental from the round before."""
    changed = names[:CHANGED]
    change(source, changed)
    snapshots = " ".join(f"tank/{name}@{round_}" for name in names)
    listen = f'for name in {" ".join(changed)}; do socat -u TCP-LISTEN:9000,reuseaddr EXEC:"zfs recv tank/$name"; done'
    receiver = target.spawn(f"bash -c {listen!r}", "floor")
    time.sleep(1)
    began = time.monotonic()
    with source.count_execs() as here, target.count_execs() as there:
        source.run(
            f"set -e; zfs snapshot {snapshots}\n"
            + "\n".join(
                f"zfs send -Lec -i @{round_ - 1} tank/{name}@{round_} |"
                f" socat -u STDIN TCP:{target.address}:9000,retry=100,interval=0.05"
                for name in changed
            ),
            timeout=600,
        )
        receiver.wait()
        seconds = time.monotonic() - began
    return here["zfs"] + there["zfs"], seconds


def cycle(cluster: Cluster, owners: dict[str, int], names: list[str]) -> tuple[int, float]:
    """(zfs processes, seconds) of one cycle of Holdfast: all changed guests fall due at once."""
    source, target = cluster.lab.hosts[:2]
    changed = names[:: VOLUMES // CHANGED][:CHANGED]
    change(source, changed)
    vmids = sorted({owners[name] for name in changed})
    done = f"timeout 300 bash -c 'tail -n0 -F /var/log/holdfast/agent.log | grep -m{len(vmids)} -c \\\"committed\\\"'"
    time.sleep(20)  # what the cycle before left to tidy up belongs to it
    with source.count_execs() as here, target.count_execs() as there:
        waiting = target.spawn(done, "wait")
        began = time.monotonic()
        for vmid in vmids:
            cluster.request(vmid)
        waiting.wait()
        seconds = time.monotonic() - began
        time.sleep(10)
    return here["zfs"] + there["zfs"], seconds


def measure(lab: Lab, shape: str, guests: int) -> bool:
    """Print one shape's figures; whether the promise holds."""
    lab.reset()
    source, target = lab.hosts[:2]
    by_hand = [f"f-{n}" for n in range(VOLUMES)]
    disks = {
        f"vm-{101 + n // (VOLUMES // guests)}-disk-{n % (VOLUMES // guests)}": 101 + n // (VOLUMES // guests)
        for n in range(VOLUMES)
    }
    source.run("set -e\n" + "\n".join(f"zfs create -s -V 64M tank/{name}" for name in [*by_hand, *disks]), timeout=600)
    source.run("zfs snapshot " + " ".join(f"tank/{name}@0" for name in by_hand))
    for name in by_hand[:CHANGED]:
        stream = source.result(f"zfs send -Lec tank/{name}@0", timeout=300).stdout
        target.run(f"zfs recv tank/{name}", stdin=stream)
    cluster = Cluster(lab)
    cluster.start()
    try:
        for vmid in sorted(set(disks.values())):
            mine = {f"scsi{n}": name for n, name in enumerate(d for d, v in disks.items() if v == vmid)}
            cluster.apply(guest(vmid, "qemu", source, mine))
        cluster.protect("1h", target)
        cluster.wait_healthy(sorted(set(disks.values())), 900)
        floors = [floor(source, target, by_hand, n) for n in range(1, ROUNDS + 1)]
        cycles = [cycle(cluster, disks, list(disks)) for _ in range(ROUNDS)]
    finally:
        cluster.stop()
    processes, bound = max(c[0] for c in cycles), 8 + 6 * CHANGED
    ratio = statistics.median(c[1] for c in cycles) / statistics.median(f[1] for f in floors)
    print(
        f"{shape}, {CHANGED} of {VOLUMES} changed: {processes} zfs processes (promised: {bound}; floor"
        f" {floors[-1][0]}), {ratio:.2f} x the floor's time (promised: 4; {statistics.median(c[1] for c in cycles):.1f}"
        f" s against {statistics.median(f[1] for f in floors):.1f} s)",
        flush=True,
    )
    return processes <= bound and ratio <= 4


def main() -> int:
    """Exit 1 where a promise is not kept."""
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "bench"))
    try:
        lab.up(2)
        kept = [measure(lab, shape, guests) for shape, guests in SHAPES.items()]
    finally:
        lab.down()
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
