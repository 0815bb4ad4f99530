"""The client and the cache beside python `etcd3` in the same run: `PYTHONPATH=tests python benchmarks/etcd.py`.

Starts its own etcd, with its data in memory: the clients are measured, not the disk. Each measurement is made by a
process of its own, ours and theirs in turn; the best of the rounds counts, for whatever else runs here only slows.
The transactions come before the 100,000 keys: with those in it a transaction costs etcd itself 2.5 times the CPU, and
it is etcd that is measured.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Put, absent
from integration.etcd_cluster import EtcdCluster, running

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / "build" / "python-etcd3"
OTHERS = ["etcd3==0.12.0", "protobuf<4"]
KEYS, VALUE = 100_000, b"x" * 100
PREFIX = "/load/"
ROUNDS = 5
TRANSACTIONS = {1: 500, 32: 3000, 256: 3000}
EVENTS = 500
THROUGHPUT, LOAD_RATIO, LOAD = 2.0, 2.0, 1.0  # promised: ratio at 32; ratio, or seconds


async def transactions(store: EtcdStore, concurrent: int, count: int) -> dict[str, float]:
    async def some(numbers: range) -> None:
        for number in numbers:
            key = f"/ours/{os.getpid()}/{concurrent}/{number:06}"
            assert (await store.transact([absent(key)], [Put(key, VALUE)])).succeeded

    async def all_of(first: int, last: int) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in range(concurrent):
                group.create_task(some(range(first + worker, last, concurrent)))

    await all_of(-concurrent, 0)
    began, cpu = time.perf_counter(), time.process_time()
    await all_of(0, count)
    return {"rate": count / (time.perf_counter() - began), "cpu": (time.process_time() - cpu) / count * 1e6}


async def events(store: EtcdStore, count: int) -> dict[str, list[float]]:
    arrived: asyncio.Queue[float] = asyncio.Queue()
    start = await store.put("/ours/watched/start", b"") + 1

    async def follow() -> None:
        async with aclosing(store.watch("/ours/watched/", start)) as batches:
            async for batch in batches:
                for _ in batch.events:
                    arrived.put_nowait(time.perf_counter())

    following = asyncio.create_task(follow())
    taken = []
    for number in range(count + 20):
        began = time.perf_counter()
        await store.put(f"/ours/watched/{number % 10}", VALUE)
        taken.append(await arrived.get() - began)
    following.cancel()
    await asyncio.wait({following})
    return {"seconds": taken[20:]}


async def load(store: EtcdStore) -> dict[str, float]:
    await store.get(PREFIX)
    before = _resident()
    began = time.perf_counter()
    cache = Cache(store, PREFIX)
    running = asyncio.create_task(cache.run())
    await cache.synced.wait()
    seconds = time.perf_counter() - began
    assert len(cache) == KEYS
    used = (_resident() - before) / KEYS
    running.cancel()
    await asyncio.wait({running})
    return {"seconds": seconds, "bytes": used}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def measure(endpoint: str, work: str) -> dict[str, Any]:
    async with EtcdStore([endpoint]) as store:
        if work == "load":
            return await load(store)
        kind, _, count = work.partition(":")
        return await events(store, int(count)) if kind == "events" else await transactions(store, int(kind), int(count))


async def fill(endpoint: str) -> None:
    async with EtcdStore([endpoint]) as store, asyncio.TaskGroup() as group:
        for worker in range(10):
            group.create_task(_fill(store, range(worker, KEYS // 100, 10)))


async def _fill(store: EtcdStore, parts: range) -> None:
    for part in parts:
        await store.transact([], [Put(f"{PREFIX}{part:05}/{n:02}", VALUE) for n in range(100)])


def make_environment() -> str:
    """Python with `etcd3`; the versions that it was published for."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "made").exists():
        uv = os.environ.get("UV", "uv")
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(ENVIRONMENT)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *OTHERS], check=True)
        (ENVIRONMENT / "made").touch()
    return str(python)


class Sides:
    """Ours and theirs, measured in turn."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._other = make_environment()

    def both(self, work: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(self._run([sys.executable, str(HERE / "etcd.py"), self._endpoint, work], dict(os.environ)))
            argv = [self._other, str(HERE / "etcd_other.py"), self._endpoint, PREFIX, work]
            theirs.append(self._run(argv, {"PATH": os.environ["PATH"]}))
        return ours, theirs

    @staticmethod
    def _run(argv: list[str], environment: dict[str, str]) -> dict[str, Any]:
        done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, timeout=300)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def percentile(rounds: list[dict[str, Any]], share: float) -> float:
    """Milliseconds, of the best round."""
    return min(sorted(one["seconds"])[int(len(one["seconds"]) * share)] for one in rounds) * 1e3


def least(rounds: list[dict[str, Any]], name: str) -> float:
    return min(float(one[name]) for one in rounds)


def most(rounds: list[dict[str, Any]], name: str) -> float:
    return max(float(one[name]) for one in rounds)


def main() -> int:
    broken = []

    def row(
        what: str, unit: str, ours: float, theirs: float, ratio: float, promise: str = "", kept: bool = True
    ) -> None:
        verdict = f"   {promise}: {'ok' if kept else 'BROKEN'}" if promise else ""
        print(f"{what:<34} {ours:10.2f} {theirs:10.2f} {unit:<10} {ratio:6.2f} x{verdict}", flush=True)
        if not kept:
            broken.append(what)

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, running(EtcdCluster(Path(folder))) as cluster:
        endpoint = cluster.endpoints[0]
        sides = Sides(endpoint)
        print(f"{'':<34} {'holdfast':>10} {'etcd3':>10}")
        for concurrent, count in TRANSACTIONS.items():
            ours, theirs = sides.both(f"{concurrent}:{count}")
            a, b = most(ours, "rate"), most(theirs, "rate")
            bound = (f"at least {THROUGHPUT:g} x", a >= THROUGHPUT * b) if concurrent == 32 else ("", True)
            row(f"transactions, {concurrent} at once", "1/s", a, b, a / b, *bound)
            a, b = least(ours, "cpu"), least(theirs, "cpu")
            row("  CPU of the client for each", "us", a, b, b / a)
        ours, theirs = sides.both(f"events:{EVENTS}")
        for share in (0.5, 0.99):
            a, b = percentile(ours, share), percentile(theirs, share)
            bound = ("no worse", a <= b) if share == 0.99 else ("", True)
            row(f"put to event, p{share * 100:.0f}", "ms", a, b, b / a, *bound)
        asyncio.run(fill(endpoint))
        ours, theirs = sides.both("load")
        a, b = least(ours, "seconds"), least(theirs, "seconds")
        kept = a <= LOAD or b / a >= LOAD_RATIO
        row(f"{KEYS} keys into memory", "s", a, b, b / a, f"{LOAD:g} s or {LOAD_RATIO:g} x", kept)
        print(f"memory for each key in the cache: {most(ours, 'bytes'):.0f} bytes, {len(VALUE)} of them its value")
    return int(bool(broken))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(measure(*sys.argv[1:]))))
    else:
        sys.exit(main())
