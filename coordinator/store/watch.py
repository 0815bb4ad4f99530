"""One prefix watch that survives its members: every event once, in order, over any number of connections.

1. It resumes at the last *delivered* mod_revision + 1. The revision in a response's header is no position: while a
   member catches up it is ahead of the events that were sent, and etcd before 3.4.25 is wrong in progress answers too.
2. Events at or below the position are dropped: a stale or buggy member (etcd before 3.4.24) sends them twice.
3. Fragments of a response are joined before delivery, so that no revision is delivered in parts.
4. A member that says nothing, though asked for progress, is left.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
from holdfast.coordinator.store import codec, errors, keys
from holdfast.coordinator.store.members import HAS_LEADER, Member, Members, failure_of
from holdfast.coordinator.store.port import Compacted, WatchBatch
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
    """This member does not serve the watch any more; another may."""


async def watch_prefix(
    members: Members, prefix: str, from_revision: int, *, ping: float, idle: float, connect: float
) -> AsyncGenerator[WatchBatch, None]:
    """Deliver a prefix's events from `from_revision` on; the times are in seconds.

    After `ping` of silence the member is asked for progress, after `idle` it is left. Raises `Compacted`, or whatever
    no other member would mend.
    """
    what = f"watch {prefix}"
    position = from_revision - 1
    pause = _FIRST_PAUSE
    while True:
        member = members.current
        try:
            if not await member.connected(connect):
                raise _Left
            fragments = Fragments()
            async with aclosing(_responses(member, prefix, position + 1, ping, idle)) as responses:
                async for response in responses:
                    _raise_if_cancelled(response, what, member.endpoint)
                    pause = _FIRST_PAUSE
                    whole = fragments.add(response)
                    if whole is None:
                        continue
                    events = tuple(codec.event(sent) for sent in whole if sent.kv.mod_revision > position)
                    if events:
                        position = events[-1].kv.mod_revision
                    yield WatchBatch(position, events)
        except grpc.aio.AioRpcError as error:
            if not errors.passing(error):
                raise errors.translate(error, what, member.endpoint) from error
        except _Left:
            pass
        members.leave(member)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _raise_if_cancelled(response: pb.WatchResponse, what: str, endpoint: str) -> None:
    """A forbidden watch is answered as created *and* cancelled; one from too far back as cancelled."""
    if not response.canceled:
        return
    where = f"{what}, asked of etcd at {endpoint}: {response.cancel_reason or 'cancelled'}"
    if response.compact_revision:
        oldest = response.compact_revision
        raise Compacted(f"{where}. History before revision {oldest} is gone: list again and watch from there", oldest)
    if errors.is_denial(response.cancel_reason):
        raise errors.denied(where)
    raise _Left(where)


async def _responses(
    member: Member, prefix: str, start: int, ping: float, idle: float
) -> AsyncGenerator[pb.WatchResponse, None]:
    """What one member sends for one watch. Raises `_Left` when it falls silent, AioRpcError when the stream ends."""
    clock = asyncio.get_running_loop().time
    first, end = keys.prefix_range(prefix)
    create = pb.WatchCreateRequest(key=first, range_end=end, start_revision=start, progress_notify=True, fragment=True)
    call = member.stream("/etcdserverpb.Watch/Watch", pb.WatchResponse)(metadata=HAS_LEADER)
    reading: asyncio.Task[object] | None = None
    try:
        async with asyncio.timeout(idle):
            await call.write(pb.WatchRequest(create_request=create))
        heard = clock()
        reading = asyncio.create_task(call.read())
        while True:
            # Not wait_for: a read that is cancelled takes the whole call with it.
            answered, _ = await asyncio.wait({reading}, timeout=ping)
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
