"""The Store on real etcd: requests, and when they may be sent again.

Reads and lease renewals are idempotent: they get a short deadline per try and go on to the next member. A write is
sent again only if it certainly was not carried out; otherwise its outcome is reported as unknown.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message
from holdfast.coordinator.store import codec, errors, keys
from holdfast.coordinator.store.members import HAS_LEADER, Member, Members, Tls, failure_of
from holdfast.coordinator.store.port import (
    Compacted,
    Compare,
    KeyValue,
    Lease,
    LeaseLost,
    Listing,
    MemberStatus,
    Operation,
    TransactionResult,
    WatchBatch,
)
from holdfast.coordinator.store.watch import watch_prefix
from holdfast.proto import etcd_pb2 as pb

Reply = TypeVar("Reply", bound=Message)
Once = Callable[[Member], Awaitable[Reply]]
Again = Callable[[grpc.aio.AioRpcError], bool]

_RELOADS = 5  # of a listing whose history is compacted away while it is read


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `write` outlasts an election of etcd (0.8 to 1.3 s measured): a write is tried only once."""

    connect: float = 1.0
    read: float = 1.0
    page: float = 5.0
    write: float = 3.0
    total: float = 10.0
    pause: float = 0.1
    watch_ping: float = 1.0
    watch_idle: float = 3.0


class EtcdStore:
    """A client of one etcd cluster. Make and close it on the event loop that uses it (`async with`)."""

    def __init__(
        self, endpoints: Sequence[str], tls: Tls | None = None, *, patience: Patience | None = None, page: int = 2000
    ) -> None:
        """`endpoints`: host:port of each member, the nearest first. `page`: keys per request of a listing."""
        self._members = Members(endpoints, tls)
        self._patience = patience or Patience()
        self._page = page

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; whatever still waits on them is cancelled."""
        await self._members.close()

    async def get(self, key: str) -> KeyValue | None:
        """Read one key; None if it is absent."""
        request = pb.RangeRequest(key=keys.encode(key))
        reply = await self._read("KV/Range", request, pb.RangeResponse, f"read {key}", self._patience.read)
        return codec.key_value(reply.kvs[0]) if reply.kvs else None

    async def list(self, prefix: str) -> Listing:
        """Read every key that starts with `prefix`, page by page, all at the first page's revision."""
        for _ in range(_RELOADS - 1):
            try:
                return await self._load(prefix)
            except Compacted:
                continue
        return await self._load(prefix)

    async def _load(self, prefix: str) -> Listing:
        start, end = keys.prefix_range(prefix)
        items: list[KeyValue] = []
        revision = 0
        while True:
            request = pb.RangeRequest(key=start, range_end=end, limit=self._page, revision=revision)
            reply = await self._read("KV/Range", request, pb.RangeResponse, f"list {prefix}", self._patience.page)
            items.extend(map(codec.key_value, reply.kvs))
            revision = revision or reply.header.revision
            if not reply.more:
                return Listing(tuple(items), revision)
            start = keys.after(reply.kvs[-1].key)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key whatever it holds; returns its mod_revision."""
        request = pb.PutRequest(key=keys.encode(key), value=value, lease=lease)
        return (await self._write("KV/Put", request, pb.PutResponse, f"write {key}")).header.revision

    async def delete(self, key: str) -> bool:
        """Delete one key; False if it was absent already."""
        request = pb.DeleteRangeRequest(key=keys.encode(key))
        return (await self._write("KV/DeleteRange", request, pb.DeleteRangeResponse, f"delete {key}")).deleted > 0

    async def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        """Carry out `success` if every compare holds, else `failure`."""
        request = codec.transaction(compares, success, failure)
        touched = ", ".join(sorted({o.key for o in (*compares, *success, *failure)})[:3])
        return codec.transaction_result(
            await self._write("KV/Txn", request, pb.TxnResponse, f"transaction on {touched}")
        )

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Follow a prefix from a revision on, over any faults."""
        return watch_prefix(
            self._members,
            prefix,
            from_revision,
            ping=self._patience.watch_ping,
            idle=self._patience.watch_idle,
            connect=self._patience.connect,
        )

    async def grant(self, ttl: float) -> Lease:
        """A new lease. One granted twice because of a lost answer expires unused."""
        request = pb.LeaseGrantRequest(TTL=max(1, round(ttl)))
        reply = await self._read(
            "Lease/LeaseGrant", request, pb.LeaseGrantResponse, "grant a lease", self._patience.read
        )
        return Lease(reply.ID, float(reply.TTL))

    async def keep_alive(self, lease_id: int) -> Lease:
        """Renew once; `LeaseLost` if it is gone."""
        what = f"renew lease {lease_id:x}"
        reply = await self._retried(lambda member: self._renew(member, lease_id), what, again=lambda _: True)
        if reply.TTL <= 0:
            raise LeaseLost(f"{what}: it has expired or was revoked. Get a new one and claim again what it held")
        return Lease(lease_id, float(reply.TTL))

    async def _renew(self, member: Member, lease_id: int) -> pb.LeaseKeepAliveResponse:
        method = member.stream("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
        call = method(timeout=self._patience.read, metadata=HAS_LEADER)
        try:
            await call.write(pb.LeaseKeepAliveRequest(ID=lease_id))
            reply = await call.read()
            if not isinstance(reply, pb.LeaseKeepAliveResponse):  # the stream's end
                raise await failure_of(call)
            return reply
        except asyncio.InvalidStateError:
            # a write on a stream that has failed says only that; its status says why
            raise await failure_of(call) from None
        finally:
            call.cancel()

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys; no error if it is gone already."""
        request = pb.LeaseRevokeRequest(ID=lease_id)
        what = f"revoke lease {lease_id:x}"
        try:
            await self._read("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse, what, self._patience.write)
        except LeaseLost:
            return

    async def status(self) -> tuple[MemberStatus, ...]:
        """Ask every configured member directly, all at once."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._status_of(member)) for member in self._members.all()]
        return tuple(task.result() for task in asked)

    async def _status_of(self, member: Member) -> MemberStatus:
        method = member.unary("/etcdserverpb.Maintenance/Status", pb.StatusResponse)
        try:
            reply = await method(pb.StatusRequest(), timeout=self._patience.read)
        except grpc.aio.AioRpcError as error:
            return MemberStatus(member.endpoint, error=error.details() or error.code().name)
        return MemberStatus(
            member.endpoint,
            version=reply.version,
            is_leader=reply.leader == reply.header.member_id,
            has_leader=reply.leader != 0,
            database_bytes=reply.dbSize,
            alarms=tuple(reply.errors),
        )

    async def _read(self, path: str, request: Message, reply: type[Reply], what: str, seconds: float) -> Reply:
        return await self._call(path, request, reply, what, seconds, again=lambda _: True)

    async def _write(self, path: str, request: Message, reply: type[Reply], what: str) -> Reply:
        return await self._call(path, request, reply, what, self._patience.write, again=errors.not_carried_out)

    async def _call(
        self, path: str, request: Message, reply: type[Reply], what: str, seconds: float, again: Again
    ) -> Reply:
        async def once(member: Member) -> Reply:
            method = member.unary(f"/etcdserverpb.{path}", reply)
            answer = await method(request, timeout=seconds, metadata=HAS_LEADER)
            assert isinstance(answer, reply)
            return answer

        return await self._retried(once, what, again)

    async def _retried(self, once: Once[Reply], what: str, again: Again) -> Reply:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience.total
        while True:
            member = self._members.current
            if not await member.connected(self._patience.connect):
                said = f"{member.endpoint} could not be connected to"
            else:
                try:
                    return await once(member)
                except grpc.aio.AioRpcError as error:
                    if not errors.passing(error):
                        raise errors.translate(error, what, member.endpoint) from error
                    if not again(error):
                        self._members.leave(member)
                        raise errors.unknown(what, member.endpoint, error) from error
                    said = f"{member.endpoint}: {error.details() or error.code().name}"
            self._members.leave(member)
            if clock() + self._patience.pause >= deadline:
                raise errors.unavailable(what, str(self._members), self._patience.total, said)
            await asyncio.sleep(self._patience.pause)
