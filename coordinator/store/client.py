"""The Store on real etcd: the port's requests in etcd's words. How they are sent, and sent again, is in `calls`."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Self

import grpc
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.store import codec, keys
from holdfast.coordinator.store.calls import Again, Calls, Patience
from holdfast.coordinator.store.login import Login, Metadata, Session
from holdfast.coordinator.store.members import Member, Members, failure_of
from holdfast.coordinator.store.port import (
    Compacted,
    Compare,
    KeyValue,
    Lease,
    LeaseLost,
    Listing,
    MemberStatus,
    Operation,
    Renewal,
    TransactionResult,
    WatchBatch,
)
from holdfast.coordinator.store.tls import Tls
from holdfast.coordinator.store.watch import PrefixWatch
from holdfast.proto import etcd_pb2 as pb

_PAGE_BYTES = 4 << 20
_RELOADS = 5  # of a listing whose history is compacted away while it is read


class EtcdStore:
    """A client of one etcd cluster. Make and close it on the event loop that uses it (`async with`)."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: Tls | None = None,
        login: Login | None = None,
        *,
        patience: Patience | None = None,
        page: int = 1000,
    ) -> None:
        """OSError if a certificate cannot be read.

        `endpoints`: host:port of each member, the nearest first. `login`: without one, etcd goes by the common name in
        the certificate. `page`: keys in the first request of a listing; those that follow are made of equal bytes.
        """
        self._members = Members(endpoints, tls)
        self._patience = patience or Patience()
        self._session = Session(login)
        self._calls = Calls(self._members, self._session, self._patience)
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
        reply = await self._calls.read("KV/Range", request, pb.RangeResponse, f"read {key}", self._patience.read)
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
        revision, page = 0, self._page
        while True:
            request = pb.RangeRequest(key=start, range_end=end, limit=page, revision=revision)
            what = f"list {prefix}"
            reply = await self._calls.read("KV/Range", request, pb.RangeResponse, what, self._patience.page)
            items.extend(map(codec.key_value, reply.kvs))
            revision = revision or reply.header.revision
            if not reply.more:
                return Listing(tuple(items), revision)
            start = keys.after(reply.kvs[-1].key)
            # etcd before 3.5 goes through all that is left for every page: few large ones, but none too large
            page = max(self._page, _PAGE_BYTES * len(reply.kvs) // reply.ByteSize())

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key whatever it holds; returns its mod_revision."""
        request = pb.PutRequest(key=keys.encode(key), value=value, lease=lease)
        return (await self._calls.write("KV/Put", request, pb.PutResponse, f"write {key}")).header.revision

    async def delete(self, key: str) -> bool:
        """Delete one key; False if it was absent already."""
        request = pb.DeleteRangeRequest(key=keys.encode(key))
        reply = await self._calls.write("KV/DeleteRange", request, pb.DeleteRangeResponse, f"delete {key}")
        return reply.deleted > 0

    async def transact(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TransactionResult:
        """Carry out `success` if every compare holds, else `failure`."""
        request = codec.transaction(compares, success, failure)
        named = ", ".join(operation.key for operation in (*success, *compares)[:3])
        reply = await self._calls.write("KV/Txn", request, pb.TxnResponse, f"transaction on {named}")
        return codec.transaction_result(reply)

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Follow a prefix from a revision on, over any faults."""
        return PrefixWatch(self._members, self._session, self._patience, prefix, from_revision).batches()

    async def grant(self, ttl: float) -> Lease:
        """A new lease. One granted twice because of a lost answer expires unused."""
        request = pb.LeaseGrantRequest(TTL=max(1, round(ttl)))
        what = "grant a lease"
        reply = await self._calls.read("Lease/LeaseGrant", request, pb.LeaseGrantResponse, what, self._patience.read)
        return Lease(reply.ID, float(reply.TTL))

    async def keep_alive(self, lease_id: int, key: str) -> Renewal:
        """Renew once, and prove it by a read of `key` through the same member; `LeaseLost` if the lease is gone."""
        what = f"renew lease {lease_id:x}"

        async def once(member: Member, sent: Metadata) -> Renewal:
            renewed = await self._renew(member, lease_id, sent)
            if renewed.TTL <= 0:
                raise LeaseLost(f"{what}: it has expired or was revoked. Get a new one and claim again what it held")
            request = pb.RangeRequest(key=keys.encode(key))
            read = await self._calls.ask(member, "KV/Range", request, pb.RangeResponse, self._patience.read, sent)
            # A leader that was deposed still renews, and its successor never hears of it. The read needs a majority;
            # the member took the first header's term before it passed the renewal on.
            if read.header.raft_term != renewed.header.raft_term:
                raise Again(f"{member.endpoint}: etcd elected a leader meanwhile")
            return Renewal(float(renewed.TTL), codec.key_value(read.kvs[0]) if read.kvs else None)

        return await self._calls.retried(once, what)

    async def _renew(self, member: Member, lease_id: int, sent: Metadata) -> pb.LeaseKeepAliveResponse:
        method = member.stream("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
        call = method(timeout=self._patience.read, metadata=sent)
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
        what, seconds = f"revoke lease {lease_id:x}", self._patience.write
        try:
            await self._calls.read("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse, what, seconds)
        except LeaseLost:
            return

    async def status(self) -> tuple[MemberStatus, ...]:
        """Ask every configured member directly, all at once."""
        await self._members.renew()
        async with TaskGroup() as group:
            asked = [group.create_task(self._status_of(member)) for member in self._members.all()]
        return tuple(task.result() for task in asked)

    async def _status_of(self, member: Member) -> MemberStatus:
        method = member.unary("/etcdserverpb.Maintenance/Status", pb.StatusResponse)
        try:
            # no metadata: etcd asks nobody who he is for this, and it must be answered without a leader too
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
