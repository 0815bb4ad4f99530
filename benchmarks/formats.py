"""How fast Proxmox's files are read: `python benchmarks/formats.py`. The bounds are those of the project's promises."""

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from holdfast.coordinator.model.keep import Keep
from holdfast.coordinator.planning import retention
from holdfast.coordinator.proxmox.calendar import CalendarEvent
from holdfast.coordinator.proxmox.guest_config import GuestConfig, identify
from holdfast.coordinator.proxmox.replicability import conditions, replicated_volumes
from holdfast.coordinator.proxmox.storage_config import StorageConfig

PVE = Path(__file__).parents[1] / "tests" / "fixtures" / "pve"
ROUNDS = 7


def storage_cfg(sections: int) -> bytes:
    kinds = (
        "dir: s{n}\n\tpath /srv/s{n}\n\tcontent images,iso,backup\n\tprune-backups keep-last=3,keep-daily=7\n",
        "zfspool: s{n}\n\tpool tank/s{n}\n\tcontent images,rootdir\n\tnodes a,b,c\n\tsparse 1\n\tmountpoint /t/s{n}\n",
        "nfs: s{n}\n\texport /e/{n}\n\tserver 192.0.2.{m}\n\tcontent images,iso\n\toptions vers=4.2\n",
        "# note {n}\nrbd: s{n}\n\tpool p{n}\n\tcontent images,rootdir\n\tkrbd 0\n\tmonhost 192.0.2.1,192.0.2.2\n",
    )
    return "\n".join(kinds[n % len(kinds)].format(n=n, m=n % 250 + 1) for n in range(sections)).encode()


def guest_files(count: int) -> list[tuple[Path, bytes]]:
    files = [(file, file.read_bytes()) for file in sorted(PVE.glob("nodes/*/*/*.conf"))]
    return [files[n % len(files)] for n in range(count)]


def read_guests(files: list[tuple[Path, bytes]], config: StorageConfig) -> None:
    for path, data in files:
        guest = GuestConfig.parse(*identify(path, data), data)
        replicated_volumes(guest, config.storages)
        conditions(guest, config.storages)


def median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    data = storage_cfg(200)
    files = guest_files(5000)
    config = StorageConfig.parse((PVE / "storage.cfg").read_bytes())
    event, never = CalendarEvent.parse("mon..fri 22:30"), CalendarEvent.parse("02-30")
    zone, now = ZoneInfo("Europe/Berlin"), datetime(2026, 1, 1, tzinfo=UTC)
    items = [(now - timedelta(minutes=15 * n), str(n)) for n in range(10_000)]
    keep = Keep.parse("last=10,hourly=48,daily=14,weekly=8,monthly=12,yearly=3")
    figures = [
        ("storage.cfg of 200 sections", median(lambda: StorageConfig.parse(data)), 0.020),
        ("5,000 guest files, with what replicates", median(lambda: read_guests(files, config), 3), 10.0),
        ("next of a calendar event", median(lambda: [event.next_after(now, zone) for _ in range(1000)]) / 1000, None),
        ("a date that never comes", median(lambda: never.next_after(now, zone)), None),
        ("retention of 10,000 points", median(lambda: retention.apply(keep, items, zone), 3), None),
    ]
    failed = False
    for what, seconds, bound in figures:
        verdict = (
            "" if bound is None else f"   bound {bound * 1000:,.0f} ms: {'ok' if seconds <= bound else 'TOO SLOW'}"
        )
        failed |= bound is not None and seconds > bound
        print(f"{what:42}{seconds * 1000:12,.3f} ms{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
