"""More operations than one transaction may hold, in as few transactions as possible."""

from collections.abc import Iterable, Iterator, Sequence

from holdfast.coordinator.store import keys
from holdfast.coordinator.store.port import MAX_OPERATIONS, Compare, Operation, Put, Store

_MAX_BYTES = 1 << 20  # of keys and values; etcd refuses requests over 1.5 MiB


def chunks(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Cut into what fits one transaction each, in order."""
    chunk: list[Operation] = []
    size = 0
    for operation in operations:
        weight = len(keys.encode(operation.key)) + (len(operation.value) if isinstance(operation, Put) else 0)
        if chunk and (len(chunk) == MAX_OPERATIONS or size + weight > _MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(operation)
        size += weight
    if chunk:
        yield chunk


async def write_all(store: Store, operations: Iterable[Operation], guards: Sequence[Compare] = ()) -> bool:
    """Carry all out, each transaction under `guards`; False at the first that was refused, the rest is then not sent.

    Not atomic as a whole. A key may be named once only.
    """
    for chunk in chunks(operations):
        if not (await store.transact(guards, chunk)).succeeded:
            return False
    return True
