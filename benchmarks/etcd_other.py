"""python `etcd3` doing what `benchmarks/etcd.py` measures, in threads, as its documentation shows. Prints JSON.

Run by that file in an environment of its own: its generated code does not load beside Holdfast's protobuf.
"""

import json
import os
import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import etcd3


def transactions(client: etcd3.Etcd3Client, concurrent: int, count: int) -> tuple[float, float]:
    """(transactions a second, CPU microseconds of each)."""

    def one(number: int) -> None:
        key = f"/other/{os.getpid()}/{concurrent}/{number:06}"
        done, _ = client.transaction(
            compare=[client.transactions.create(key) == 0],
            success=[client.transactions.put(key, b"x" * 100)],
            failure=[],
        )
        assert done

    with ThreadPoolExecutor(concurrent) as pool:
        list(pool.map(one, range(-concurrent, 0)))
        began, cpu = time.perf_counter(), time.process_time()
        list(pool.map(one, range(count)))
        return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


def events(client: etcd3.Etcd3Client, count: int) -> list[float]:
    """Seconds from before each put to its event."""
    arrived: queue.Queue[float] = queue.Queue()
    watch = client.add_watch_prefix_callback("/other/watched/", lambda _: arrived.put(time.perf_counter()))
    taken = []
    for number in range(count + 20):
        began = time.perf_counter()
        client.put(f"/other/watched/{number % 10}", b"x" * 100)
        taken.append(arrived.get(timeout=10) - began)
    client.cancel_watch(watch)
    return taken[20:]


def load(client: etcd3.Etcd3Client, prefix: str) -> float:
    """Seconds until all keys of a prefix are there by key."""
    began = time.perf_counter()
    view = {meta.key: value for value, meta in client.get_prefix(prefix)}
    assert len(view) > 1000
    return time.perf_counter() - began


def main() -> None:
    """`ENDPOINT PREFIX WORK`, where WORK is `load`, `events:COUNT` or CONCURRENT:COUNT."""
    endpoint, prefix, work = sys.argv[1:]
    host, _, port = endpoint.partition(":")
    # by default it cannot receive more than 4 MiB
    client = etcd3.client(host, int(port), grpc_options=[("grpc.max_receive_message_length", -1)])
    if work == "load":
        result: object = {"seconds": load(client, prefix)}
    elif work.startswith("events:"):
        result = {"seconds": events(client, int(work[7:]))}
    else:
        rate, cpu = transactions(client, *map(int, work.split(":")))
        result = {"rate": rate, "cpu": cpu}
    print(json.dumps(result))


main()
