"""The simulator's model of zfs send and zfs recv against the real ones: the same random operations on both.

Whole streams and broken ones, in full, from snapshots and from bookmarks; what is refused; resuming and giving up.
"""

import asyncio
import inspect
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from holdfast.agent.ports import ReceiveOrder, SendOrder, VolumesError
from sim import streams
from sim.datasets import Mark
from sim.zfs import Storage

from . import streams_driver
from .host import Host
from .streams_driver import BLOCK, REPLICA, SIZE, SOURCE, Run

OPERATIONS = 45
SEEDS = (154, 173, 256)
"""Those whose operations have the most kinds of outcomes between them; 256 also snapshots a half-received replica."""


def _draw(rng: random.Random, state: list[Any]) -> list[list[Any]]:
    """What to do next; mostly what makes sense after what the model shows."""
    _, source, replica = state
    numbers = [int(name.rpartition("-")[2]) for name, _ in source["snapshots"]] or [0]
    newest, older = numbers[-1], rng.choice(numbers)
    if replica and replica["token"] and rng.random() < 0.7:
        return [
            rng.choice((["resume", "whole"], ["resume", "whole"], ["resume", "begun"], ["resume", "opened"], ["abort"]))
        ]
    last = replica["snapshots"][-1][0] if replica and replica["snapshots"] else f"holdfast-1-{older}"
    base = rng.choice((f"@{last}", f"@{last}", f"#{last}")) if replica else None
    if rng.random() < 0.15:
        base = rng.choice((None, f"@{last}", f"@holdfast-1-{older}"))
    written = [["write"]] * rng.choice((0, 1, 1, 1))
    point = [*written, ["snapshot", newest + 1], *[["bookmark", newest + 1]] * rng.choice((0, 1))]
    match rng.choices(_KINDS, _WEIGHTS)[0]:
        case "point":
            return point
        case "send" if rng.random() < 0.8:
            cuts = ("whole", "whole", "half", "opened", "begun") if written else ("whole", "begun")
            return [*point, ["send", newest + 1, base, rng.choice(cuts)]]
        case "send":
            return [["send", rng.choice((newest, newest, older)), base, "whole"]]
        case "destroy":
            return [["destroy", f"{rng.choice((SOURCE, REPLICA))}@{rng.choice((last, f'holdfast-1-{older}'))}"]]
        case "drop_bookmark":
            return [["drop_bookmark", older]]
        case "snapshot_replica":
            return [["snapshot_replica", "mine"], *rng.choice(([], [["destroy", f"{REPLICA}@mine"]]))]
        case "resume":
            return [["resume", "whole"]]
        case kind:
            return [[kind]]


_WEIGHTED = {
    **{"point": 5, "send": 80, "resume": 2, "destroy": 8, "abort": 3},
    **{"drop_bookmark": 3, "snapshot_replica": 2, "modify": 1, "aside": 4},
}
_KINDS, _WEIGHTS = [*_WEIGHTED], [*_WEIGHTED.values()]


class _Modelled:
    """The model, by the calls of the driver."""

    def __init__(self) -> None:
        self._storage = Storage("n1", random.Random(1))
        self._storage.create(SOURCE, "volume", SIZE, written=0)

    async def scan(self) -> Any:
        self._storage.sync()
        return self._storage.scan(datetime.now(UTC))

    def write(self, name: str) -> None:
        self._storage.write(name, 1, BLOCK)
        self._storage.sync()

    def snapshot(self, name: str) -> None:
        dataset, _, short = name.partition("@")
        there = self._storage.datasets.get(dataset)
        if there is None or short in there.snaps or there.inconsistent:
            raise VolumesError(name)
        self._storage.snapshot_foreign(dataset, short)

    def bookmark(self, name: str, bookmark: str) -> None:
        dataset, snap = self._storage.find(name)
        short = bookmark.partition("#")[2]
        if dataset is None or snap is None or short in dataset.marks:
            raise VolumesError(bookmark)
        dataset.marks[short] = Mark(snap.guid, snap.txg, snap.image.written)
        self._storage.touch(dataset)

    def destroy(self, name: str) -> None:
        dataset, snap = self._storage.find(name)
        if dataset is None or snap is None or not self._storage.may_go(dataset, snap):
            raise VolumesError(name)
        self._storage.destroy_by_admin(dataset.name, snap.name)

    async def drop_bookmark(self, name: str) -> None:
        self._storage.drop_bookmark(name)

    async def abort_partial(self, name: str) -> None:
        self._storage.abort_partial(name)

    async def set_aside(self, name: str, vmid: int, epoch: int) -> None:
        self._storage.set_aside(name, vmid, epoch)

    async def move(self, order: SendOrder, receive: ReceiveOrder, cut: str) -> None:
        stream, _ = streams.begin_send(self._storage, order)
        source = order.resume_token.partition("|")[0] if order.resume_token else order.source
        partial = streams.begin_receive(self._storage, receive, stream, source)
        left = stream.total - (stream.offset or 0)
        count = min(left, {"whole": left, "half": BLOCK // 2, "opened": 1, "begun": 0}[cut])
        if count:
            streams.arrived(self._storage, receive.dataset, partial, count)
        if count < left:
            streams.break_receive(self._storage, receive.dataset)
            raise VolumesError("cut")
        streams.end_receive(self._storage, receive.dataset, partial)


async def modelled(rng: random.Random) -> tuple[list[list[Any]], list[Any]]:
    """Draw operations, and what the model says to each."""
    run = Run(_Modelled())
    operations, outcomes = [["write"], ["snapshot", 1]], []
    for operation in operations:
        outcomes.append(json.loads(json.dumps(await run.do(operation))))
        if len(outcomes) == len(operations) < OPERATIONS:
            operations += _draw(rng, outcomes[-1])
    return operations, outcomes


@pytest.mark.parametrize("seed", SEEDS)
def test_random_streams_have_the_same_outcomes(hosts: list[Host], seed: int) -> None:
    operations, model = asyncio.run(modelled(random.Random(seed)))
    host = hosts[0]
    host.deploy()
    host.put(inspect.getsource(streams_driver), "/run/streams_driver.py")
    said = host.run(
        "cd /run && python3 streams_driver.py",
        stdin="".join(f"{json.dumps(o)}\n" for o in operations).encode(),
        timeout=500,
    )
    real = [json.loads(line) for line in said.splitlines()]
    for number, (operation, was, should) in enumerate(zip(operations, real, model, strict=True)):
        assert was == should, f"operation {number}, {operation}, after {operations[max(0, number - 6) : number]}"
