"""The simulator's model of etcd against the real one: the same random operations on both, every answer compared."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import (
    Compacted,
    Delete,
    Get,
    KeyValue,
    LeaseLost,
    Listing,
    Operation,
    Put,
    TransactionResult,
    absent,
    created_at,
    unchanged,
    value_is,
)
from integration.etcd_cluster import EtcdCluster
from sim.etcd import Etcd

NAMES = ("a", "b", "b/1", "b/2", "c")
OPERATIONS = 120


class Pair:
    """The real store and the model; leases are known by number, as each gives out its own ids."""

    def __init__(self, real: EtcdStore, cluster: EtcdCluster, rng: random.Random, base: int) -> None:
        self.real, self.cluster, self.rng = real, cluster, rng
        self.model = Etcd(lambda: 0.0)
        self.model.revision = base
        self.leases: list[tuple[int, int]] = []

    async def both(self, ask: Callable[[Any, int], Any]) -> tuple[object, object]:
        """What each answers, or the kind of error it raises. `ask` gets the store, and which of a lease's two ids."""
        answers: list[object] = []
        for side, store in enumerate((self.real, self.model)):
            try:
                answer = ask(store, side)
                answers.append(await answer if hasattr(answer, "__await__") else answer)
            except LeaseLost:
                answers.append(LeaseLost)
        return answers[0], answers[1]

    def plain(self, answer: object, side: int) -> object:
        """An answer with lease ids replaced by the lease's number."""
        numbers = {ids[side]: number for number, ids in enumerate(self.leases, 1)} | {0: 0}
        match answer:
            case KeyValue():
                kv = answer
                return (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, numbers[kv.lease])
            case Listing():
                return [self.plain(item, side) for item in answer.items], answer.revision
            case TransactionResult():
                read = [self.plain(item, side) for item in answer.results]
                return answer.succeeded, answer.revision, read
        return answer


def _operation(rng: random.Random, pair: Pair, key: str) -> Callable[[int], Operation]:
    lease = rng.choice([(0, 0), (0, 0), *pair.leases]) if rng.random() < 0.5 else (0, 0)
    value = b"%d" % rng.randrange(3)
    kind = rng.choice(("get", "put", "put", "delete"))
    if kind == "get":
        return lambda side: Get(key)
    if kind == "delete":
        return lambda side: Delete(key)
    return lambda side: Put(key, value, lease[side])


def _draw(pair: Pair, prefix: str) -> tuple[str, Callable[[Any, int], Any]]:
    rng, model = pair.rng, pair.model
    key = prefix + rng.choice(NAMES)
    kind = rng.choice(("get", "list", "put", "put", "delete", "transact", "transact", "keep_alive", "revoke"))
    value = b"%d" % rng.randrange(3)
    lease = rng.choice(pair.leases) if pair.leases and rng.random() < 0.4 else (0, 0)
    listed = prefix + rng.choice(("", "b"))
    if kind == "get":
        return kind, lambda store, side: store.get(key)
    if kind == "list":
        return kind, lambda store, side: store.list(listed)
    if kind == "put":
        return kind, lambda store, side: store.put(key, value, lease[side])
    if kind == "delete":
        return kind, lambda store, side: store.delete(key)
    if kind == "revoke" and lease != (0, 0):
        return kind, lambda store, side: store.revoke(lease[side])
    if kind == "keep_alive" and lease != (0, 0):
        return kind, lambda store, side: store.keep_alive(lease[side], *([key] if side == 0 else []))
    item = model.items.get(key)
    compares = [
        rng.choice((absent(key), created_at(key, item.create_revision if item else 7), value_is(key, value))),
        unchanged(key, rng.choice((0, item.mod_revision if item else 0))),
    ][: rng.randrange(3)]
    keys = rng.sample(NAMES, 3)
    success = [_operation(rng, pair, prefix + name) for name in keys[: rng.randrange(4)]]
    failure = [_operation(rng, pair, prefix + name) for name in keys[: rng.randrange(3)]]
    return "transact", lambda store, side: store.transact(
        compares, [make(side) for make in success], [make(side) for make in failure]
    )


@pytest.fixture
async def pair(own_store: EtcdStore, own_etcd: EtcdCluster, request: pytest.FixtureRequest) -> Pair:
    base = (await own_store.list("/")).revision
    return Pair(own_store, own_etcd, random.Random(request.param), base)


@pytest.mark.parametrize("pair", range(4), indirect=True)
async def test_random_operations_have_the_same_answers(pair: Pair) -> None:
    prefix = "/model/"
    for number in range(OPERATIONS):
        if number % 25 == 0:
            real, model = await pair.both(lambda store, side: store.grant(600))
            pair.leases.append((real.id, model.id))  # type: ignore[attr-defined]
        kind, ask = _draw(pair, prefix)
        real, model = await pair.both(ask)
        if kind != "keep_alive":
            assert pair.plain(real, 0) == pair.plain(model, 1), f"operation {number}, {kind}"
    for ids in pair.leases[:2]:
        await pair.real.revoke(ids[0])
        pair.model.revoke(ids[1])
    real, model = await pair.real.list(prefix), pair.model.list(prefix)
    assert pair.plain(real, 0) == pair.plain(model, 1)


@pytest.mark.parametrize("pair", range(2), indirect=True)
async def test_a_watch_shows_the_same_events(pair: Pair) -> None:
    prefix, start = "/model/", pair.model.revision
    for _ in range(60):
        _, ask = _draw(pair, prefix)
        await pair.both(ask)
    expected = [(e.kind, e.kv) for e in pair.model.events(prefix, start)]
    seen: list[tuple[str, KeyValue]] = []
    async for batch in pair.real.watch(prefix, start + 1):
        seen += [(e.kind, e.kv) for e in batch.events]
        if len(seen) >= len(expected):
            break
    assert seen == expected


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_compacted_history_is_gone_from_the_same_revision_on(pair: Pair) -> None:
    for number in range(6):
        await pair.real.put("/model/a", b"%d" % number)
        pair.model.put("/model/a", b"%d" % number)
    last = pair.model.revision
    pair.cluster.ctl("compact", str(last - 2))
    pair.model.compact(last - 2)
    for start in (last - 4, last - 3, last - 2, last - 1):
        assert await _begins(pair.real, start) == _may_begin(pair.model, start), f"from revision {start} of {last}"


async def _begins(store: EtcdStore, start: int) -> bool:
    try:
        async for batch in store.watch("/model/", start):
            if batch.events:
                return True
    except Compacted:
        return False
    return False


def _may_begin(model: Etcd, start: int) -> bool:
    try:
        model.check_compaction("/model/", start)
    except Compacted:
        return False
    return True
