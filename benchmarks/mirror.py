"""How fast a cluster shows in an empty etcd: `PYTHONPATH=tests python benchmarks/mirror.py`. Starts its own etcd."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from formats import guest_files, storage_cfg
from holdfast.coordinator.mirror.records import imported
from holdfast.coordinator.mirror.sync import synchronise
from holdfast.coordinator.mirror.tree import Tree, TreeReader
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from integration.etcd_cluster import EtcdCluster, running

GUESTS, STORAGES = 5000, 200
BOUND = 20.0  # seconds, for mirroring into an empty etcd


def make(root: Path) -> None:
    (root / "storage.cfg").write_bytes(storage_cfg(STORAGES))
    for number, (path, data) in enumerate(guest_files(GUESTS)):
        file = root / "nodes" / f"node{number % 3}" / path.parent.name / f"{100 + number}.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def look(reader: TreeReader) -> tuple[Tree, float]:
    start = time.perf_counter()
    tree = reader.look()
    return tree, time.perf_counter() - start


async def write(cluster: EtcdCluster, tree: Tree) -> float:
    start = time.perf_counter()
    async with EtcdStore(cluster.endpoints) as store:
        assert await synchronise(store, Keyspace("bench"), imported(tree), remove=False) is not None
    return time.perf_counter() - start


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, running(EtcdCluster(Path(folder))) as cluster:
        root = Path(folder) / "pve"
        root.mkdir()
        make(root)
        reader = TreeReader(root)
        _, first_look = look(reader)
        tree, reading = look(reader)
        assert tree.complete, tree.problems
        first = asyncio.run(write(cluster, tree))
        second = asyncio.run(write(cluster, tree))
        changed = dict(tree.files) | {"nodes/node0/qemu-server/100.conf": b"name: changed\n"}
        one = asyncio.run(write(cluster, Tree(changed, complete=True, writable=True)))
        time.sleep(2.5)
        look(reader)
        _, idle = look(reader)
    total = first_look + reading + first
    verdict = "ok" if total <= BOUND else "TOO SLOW"
    print(
        f"{GUESTS} guests and {STORAGES} storages into an empty etcd   {total:8.2f} s   bound {BOUND:.0f} s: {verdict}"
    )
    print(f"again, nothing changed                             {second:8.2f} s")
    print(f"again, one guest changed                           {one:8.2f} s")
    print(f"one look at a tree that did not change             {idle:8.2f} s")
    return int(total > BOUND)


if __name__ == "__main__":
    sys.exit(main())
