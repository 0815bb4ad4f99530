"""Writes records where they differ from what the keyspace has.

1. Nothing is written that would not change anything.
2. Only what the mirror itself wrote is ever removed: its index says what that is. Records of people stay.
3. A name that was unreadable is neither written nor removed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.coordinator.mirror.records import Records
from holdfast.coordinator.model.keyspace import DESIRED, Keyspace
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.store.batch import write_all
from holdfast.coordinator.store.port import Compare, Delete, KeyValue, Operation, Put, Store
from pydantic import ValidationError

MIRRORED = ("storage", "guests")

Index = dict[str, set[str]]


@dataclass(frozen=True)
class Changes:
    """What is written, and what it does; names are `folder/name`."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.operations)


def leader_key(keyspace: Keyspace) -> str:
    """Return the key of the one node that mirrors."""
    return f"{keyspace.root}mirror/leader"


def index_key(keyspace: Keyspace) -> str:
    """Return the key under which the mirror keeps the names of what it wrote."""
    return f"{keyspace.root}mirror/index"


def compare(keyspace: Keyspace, records: Records, existing: Iterable[KeyValue], index: Index, remove: bool) -> Changes:
    """Return what has to be written. `remove`: what the index names and the source lacks goes. Pure."""
    there = {kv.key: kv.value for kv in existing}
    created, changed, removed = [], [], []
    operations: list[Operation] = []
    for folder, named in records.found.items():
        for name, record in sorted(named.items()):
            key = keyspace.desired(folder, name)
            if key in there:
                if _same(record, there[key]):
                    continue
                if folder not in MIRRORED:  # people have made it theirs
                    continue
                changed.append(f"{folder}/{name}")
            else:
                created.append(f"{folder}/{name}")
            operations.append(Put(key, record.to_json()))
    for folder in MIRRORED if remove else ():
        known = records.found.get(folder, {}).keys() | records.unreadable.get(folder, set())
        for name in sorted(index.get(folder, set()) - known):
            if keyspace.desired(folder, name) in there:
                removed.append(f"{folder}/{name}")
                operations.append(Delete(keyspace.desired(folder, name)))
    return Changes(tuple(created), tuple(changed), tuple(removed), tuple(operations))


async def synchronise(
    store: Store, keyspace: Keyspace, records: Records, *, remove: bool, guards: Sequence[Compare] = ()
) -> Changes | None:
    """Write what differs; None if a guard failed: somebody else mirrors by now. Raises StoreError."""
    existing, index = await read(store, keyspace, records)
    changes = compare(keyspace, records, existing, index, remove)
    return changes if await write(store, keyspace, records, index, changes, guards) else None


async def read(store: Store, keyspace: Keyspace, records: Records) -> tuple[list[KeyValue], Index]:
    """Return what the keyspace has, and what of it the mirror wrote. Raises StoreError."""
    existing = [kv for folder in records.found for kv in (await store.list(keyspace.desired(folder, ""))).items]
    return existing, _index(await store.get(index_key(keyspace)))


async def write(
    store: Store, keyspace: Keyspace, records: Records, index: Index, changes: Changes, guards: Sequence[Compare]
) -> bool:
    """Carry out what was compared; False if a guard failed. Raises StoreError."""
    mirrored = {folder: set(records.found.get(folder, {})) for folder in MIRRORED}
    # the index grows before what it names is written, and shrinks after that is gone: it never names too little
    grown = {folder: index.get(folder, set()) | mirrored[folder] for folder in MIRRORED}
    gone = {folder: {n.partition("/")[2] for n in changes.removed if n.startswith(f"{folder}/")} for folder in MIRRORED}
    final = {folder: grown[folder] - gone[folder] for folder in MIRRORED}
    for operations in (
        [Put(index_key(keyspace), _index_bytes(grown))] if grown != index else [],
        changes.operations,
        [Put(index_key(keyspace), _index_bytes(final))] if final != grown else [],
    ):
        if operations and not await write_all(store, operations, guards):
            return False
    return True


async def preview(store: Store, keyspace: Keyspace, records: Records) -> Changes:
    """Return what an import would write. Raises StoreError."""
    existing, _ = await read(store, keyspace, records)
    return compare(keyspace, records, existing, {}, remove=False)


def _same(record: Record, value: bytes) -> bool:
    if record.to_json() == value:
        return True
    try:
        return type(record).model_validate_json(value) == record
    except ValidationError:
        return False


def _index(held: KeyValue | None) -> Index:
    try:
        loaded = json.loads(held.value) if held else {}
        return {folder: set(map(str, loaded.get(folder, ()))) for folder in MIRRORED}
    except (ValueError, AttributeError, TypeError):
        return {folder: set() for folder in MIRRORED}


def _index_bytes(index: Index) -> bytes:
    return json.dumps({folder: sorted(index[folder]) for folder in MIRRORED}).encode()


assert set(MIRRORED) <= set(DESIRED)
