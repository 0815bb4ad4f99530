"""One prefix watch that survives its members: every event once, in order, over any number of connections.

1. It resumes at the last *delivered* mod_revision + 1. The revision in a response's header is no position: while a
   member catches up it is ahead of the events that were sent, and etcd before 3.4.25 is wrong in progress answers too.
2. Events at or below the position are dropped: a stale or buggy member (etcd before 3.4.24) sends them twice.
3. Fragments of a response are joined before delivery, so that no revision is delivered in parts.
4. A member that says nothing, though asked for progress, is left; so is one that is behind what was delivered.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
from holdfast.coordinator.store import codec, errors, keys
from holdfast.coordinator.store.calls import Patience
from holdfast.coordinator.store.login import Session, metadata
from holdfast.coordinator.store.members import Member, Members, failure_of
from holdfast.coordinator.store.port import Compacted, StoreError, WatchBatch
from holdfast.proto import etcd_pb2 as pb

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between connections, doubled each time that brought nothing


class Fragments:
    """Joins the fragments of a watch response."""

    def __init__(self) -> None:
        self._held: list[pb.Event] = []

    def add(self, response: pb.WatchResponse) -> list[pb.Event] | None:
        """All events of a response once its last fragment is here; None before."""
        self._held.extend(response.events)
        if response.fragment:
            return None
        whole, self._held = self._held, []
        return whole


class _Left(Exception):
    """This member does not serve the watch any more; another may. `reason`: what to raise if none does for long."""

    def __init__(self, reason: StoreError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


class PrefixWatch:
    """One watch; `batches` may be run once."""

    def __init__(self, members: Members, session: Session, patience: Patience, prefix: str, from_revision: int) -> None:
        self._members = members
        self._session = session
        self._patience = patience
        self._prefix = prefix
        self._what = f"watch {prefix}"
        self._position = from_revision - 1
        self._denied = False  # by the last member asked

    async def batches(self) -> AsyncGenerator[WatchBatch, None]:
        """Deliver the events.

        After `watch_ping` of silence the member is asked for progress, after `watch_idle` it is left. Raises
        `Compacted`, or whatever no other member would mend.
        """
        clock = asyncio.get_running_loop().time
        pause, refused_since = _FIRST_PAUSE, None
        while True:
            await self._members.renew()
            member = self._members.current
            reason = None
            try:
                async with aclosing(self._from(member)) as batches:
                    async for batch in batches:
                        pause, refused_since = _FIRST_PAUSE, None
                        yield batch
            except _Left as left:
                reason = left.reason
            if reason and refused_since is None:
                refused_since = clock()
            if reason and refused_since and clock() - refused_since > self._patience.total:
                raise reason
            self._members.leave(member)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _from(self, member: Member) -> AsyncGenerator[WatchBatch, None]:
        """What one connection to one member delivers; always ends in an exception."""
        token = ""
        try:
            if not await member.connected(self._patience.connect):
                raise _Left
            token = await self._session.token(member)
            fragments = Fragments()
            first, end = keys.prefix_range(self._prefix)
            create = pb.WatchCreateRequest(
                key=first, range_end=end, start_revision=self._position + 1, progress_notify=True, fragment=True
            )
            async with aclosing(_responses(self._members, member, token, create, self._patience)) as responses:
                async for response in responses:
                    self._check(response, member.endpoint, token)
                    whole = fragments.add(response)
                    if whole is not None:
                        yield self._deliver(whole)
        except grpc.aio.AioRpcError as error:
            reason = errors.translate(error, self._what, member.endpoint)
            if errors.login_again(error) and self._session.forget(token):
                raise _Left(reason) from error
            raise (_Left if errors.passing(error) else reason) from error

    def _deliver(self, sent: list[pb.Event]) -> WatchBatch:
        events = tuple(codec.event(event) for event in sent if event.kv.mod_revision > self._position)
        if events:
            self._position = events[-1].kv.mod_revision
        return WatchBatch(self._position, events)

    def _check(self, response: pb.WatchResponse, endpoint: str, token: str) -> None:
        """A forbidden watch is answered as created *and* cancelled; one from too far back as cancelled."""
        if not response.canceled:
            if response.header.revision < self._position:
                raise _Left(errors.behind(self._what, endpoint, response.header.revision, self._position))
            self._denied = False
            return
        where = f"{self._what}, asked of etcd at {endpoint}: {response.cancel_reason or 'cancelled'}"
        if response.compact_revision:
            oldest = response.compact_revision
            said = f"{where}. History before revision {oldest} is gone: list again and watch from there"
            raise Compacted(said, oldest)
        if errors.is_denial(response.cancel_reason):
            denied = errors.denied(where)
            # etcd before 3.5 denies in the same words where only the token has expired
            if not self._denied and self._session.forget(token):
                self._denied = True
                raise _Left(denied)
            raise denied
        raise _Left


async def _responses(
    members: Members, member: Member, token: str, create: pb.WatchCreateRequest, patience: Patience
) -> AsyncGenerator[pb.WatchResponse, None]:
    """What one member sends for one watch. Raises `_Left` when it falls silent, AioRpcError when the stream ends."""
    ping, idle = patience.watch_ping, patience.watch_idle
    clock = asyncio.get_running_loop().time
    call = member.stream("/etcdserverpb.Watch/Watch", pb.WatchResponse)(metadata=metadata(token))
    reading: asyncio.Task[object] | None = None
    try:
        async with asyncio.timeout(idle):
            await call.write(pb.WatchRequest(create_request=create))
        heard = clock()
        reading = asyncio.create_task(call.read())
        while True:
            # Not wait_for: a read that is cancelled takes the whole call with it.
            answered, _ = await asyncio.wait({reading}, timeout=ping)
            await members.renew()
            if member.replaced or reading.cancelled():  # by the end of its connection
                raise _Left
            if answered:
                response = reading.result()
                if not isinstance(response, pb.WatchResponse):  # the stream's end
                    raise await failure_of(call)
                reading = asyncio.create_task(call.read())
                yield response
                heard = clock()  # not before: the time that the consumer took says nothing about the member
            elif clock() - heard >= idle:
                raise _Left
            else:
                async with asyncio.timeout(idle):
                    await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    except TimeoutError:
        raise _Left from None
    except asyncio.InvalidStateError:
        # a write on a stream that has failed says only that; its status says why
        raise await failure_of(call) from None
    finally:
        call.cancel()
        if reading:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
