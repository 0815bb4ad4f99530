"""The simulator's model of ZFS against the real one: the same random operations on both, errors included."""

import asyncio
import inspect
import json
import random
from typing import Any

import pytest
from sim.at_once import AtOnce
from sim.zfs import Storage

from . import volumes_driver
from .host import Host
from .volumes_driver import SIZE, Run

OPERATIONS = 40


def _draw(rng: random.Random) -> list[Any]:
    disk, sequence, epoch = rng.randrange(2), rng.randrange(1, 6), rng.choice((1, 1, 1, 2))
    dataset = f"tank/vm-101-disk-{disk}"
    snapshot = f"{dataset}@holdfast-1-{sequence}"
    return rng.choice(
        (
            ["prepare"],
            ["raise_epoch", rng.choice((1, 1, 1, 1, 2))],
            ["take", 1, sequence, rng.choice(([0, 1], [0, 1], [0], [0, 7])), rng.randrange(1, 6)],
            ["take", epoch, sequence, [0, 1], rng.randrange(1, 6)],
            ["take", 1, rng.randrange(6, 30), [0, 1], rng.randrange(1, 6)],
            ["hold", [snapshot, f"{dataset}@holdfast-1-{rng.randrange(1, 8)}"]],
            ["release", [snapshot]],
            ["record_sent", epoch, sequence, "n2"],
            ["destroy", epoch, sequence, rng.random() < 0.2],
            ["destroy", 1, sequence, False],
            ["drop_bookmark", f"{dataset}#holdfast-1-{sequence}"],
            ["commit", epoch, sequence, rng.random() < 0.3, rng.randrange(1, 6)],
            ["abort_partial", dataset],
            ["write", disk],
            ["write", disk],
            ["foreign_snapshot", disk, rng.choice(("mine", f"holdfast-1-{sequence}"))],
            ["set_aside", rng.choice((dataset, "tank/vm-101-disk-7"))] if rng.random() < 0.1 else ["write", disk],
        )
    )


async def _modelled(operations: list[list[Any]]) -> list[Any]:
    storage = Storage("n1", random.Random(1))
    for disk in range(2):
        storage.create(f"tank/vm-101-disk-{disk}", "volume", SIZE)

    def foreign(what: str, name: str) -> None:
        dataset, _, short = name.partition("@")
        if dataset not in storage.datasets:
            return
        if what == "snapshot":
            storage.snapshot_foreign(dataset, short)
        else:
            storage.write(dataset, 1, 65536)

    run = Run(AtOnce(storage), foreign)
    return [json.loads(json.dumps(await run.do(operation))) for operation in operations]


_BACK: list[list[Any]] = [
    ["prepare"],
    ["write", 0],
    ["take", 1, 1, [0, 1], 0],
    ["hold", ["tank/vm-101-disk-0@holdfast-1-1"]],
    ["record_sent", 1, 1, "n2"],
    ["write", 0],
    ["take", 1, 2, [0, 1], 1],
    ["copy", 0, 1],
    ["copy", 0, 1],
    ["destroy", 1, 1, False],
    ["drop_copy", 0],
    ["drop_copy", 0],
    ["write", 0],
    ["put_aside", 0, "a"],
    ["put_aside", 0, "a"],
    ["clone_back", 0, "a", 7],
    ["clone_back", 0, "a", 1],
    ["clone_back", 0, "a", 1],
    ["promote", 1, 0, "a", 1, True],
    ["promote", 1, 0, "a", 1, False],
    ["promote", 1, 0, "a", 1, False],
    ["destroy", 1, 1, False],
    ["write", 0],
    ["take", 1, 3, [0, 1], 2],
    ["put_aside", 0, "b"],
    ["clone_back", 0, "b", 1],
    ["raise_epoch", 2],
    ["promote", 1, 0, "b", 1, False],
    ["promote", 2, 0, "b", 1, False],
    ["copy", 0, 1],
    ["set_aside", "tank/vm-101-disk-0"],
]
"""Back to the first point, twice, with all that can go wrong; and copies, also of what goes aside."""


def test_going_back_has_the_same_outcomes(hosts: list[Host]) -> None:
    _compare(hosts[0], _BACK)


@pytest.mark.parametrize("seed", range(3))
def test_random_operations_have_the_same_outcomes(hosts: list[Host], seed: int) -> None:
    rng = random.Random(seed)
    _compare(hosts[0], [["prepare"], ["write", 0], ["write", 1], *(_draw(rng) for _ in range(OPERATIONS))])


def _compare(host: Host, operations: list[list[Any]]) -> None:
    host.deploy()
    host.put(inspect.getsource(volumes_driver), "/run/volumes_driver.py")
    said = host.run(
        "cd /run && python3 volumes_driver.py",
        stdin="".join(f"{json.dumps(o)}\n" for o in operations).encode(),
        timeout=280,
    )
    real = [json.loads(line) for line in said.splitlines()]
    model = asyncio.run(_modelled(operations))
    for number, (operation, was, should) in enumerate(zip(operations, real, model, strict=True)):
        assert was == should, f"operation {number}, {operation}"
