"""Between the port's words and etcd's messages. Pure."""

from collections.abc import Sequence

from holdfast.coordinator.store import keys
from holdfast.coordinator.store.port import (
    MAX_OPERATIONS,
    Compare,
    Delete,
    Event,
    Field,
    Get,
    KeyValue,
    Operation,
    Put,
    TransactionResult,
)
from holdfast.proto import etcd_pb2 as pb


def key_value(kv: pb.KeyValue) -> KeyValue:
    """A key as etcd sent it."""
    return KeyValue(keys.decode(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def event(sent: pb.Event) -> Event:
    """A watch event as etcd sent it."""
    return Event("delete" if sent.type == pb.Event.DELETE else "put", key_value(sent.kv))


def _compare(compare: Compare) -> pb.Compare:
    message = pb.Compare(key=keys.encode(compare.key), result=pb.Compare.EQUAL)
    match compare.field, compare.expected:
        case Field.CREATE, int(revision):
            message.target, message.create_revision = pb.Compare.CREATE, revision
        case Field.MOD, int(revision):
            message.target, message.mod_revision = pb.Compare.MOD, revision
        case Field.VALUE, bytes(value):
            message.target, message.value = pb.Compare.VALUE, value
        case _:
            raise ValueError(f"{compare}: revisions are compared with numbers, values with bytes")
    return message


def _operation(operation: Operation) -> pb.RequestOp:
    key = keys.encode(operation.key)
    match operation:
        case Get():
            return pb.RequestOp(request_range=pb.RangeRequest(key=key))
        case Put():
            return pb.RequestOp(request_put=pb.PutRequest(key=key, value=operation.value, lease=operation.lease))
        case Delete():
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def transaction(
    compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> pb.TxnRequest:
    """A transaction for etcd; ValueError if it is longer than the port allows."""
    longest = max(len(compares), len(success), len(failure))
    if longest > MAX_OPERATIONS:
        raise ValueError(f"a transaction of {longest} operations: at most {MAX_OPERATIONS} are allowed, split it")
    return pb.TxnRequest(
        compare=[_compare(c) for c in compares],
        success=[_operation(o) for o in success],
        failure=[_operation(o) for o in failure],
    )


def transaction_result(response: pb.TxnResponse) -> TransactionResult:
    """What a transaction did."""
    return TransactionResult(response.succeeded, response.header.revision, tuple(map(_result, response.responses)))


def _result(response: pb.ResponseOp) -> KeyValue | None:
    found = response.response_range.kvs  # empty too where the response is another operation's
    return key_value(found[0]) if found else None
