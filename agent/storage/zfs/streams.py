"""zfs send and zfs recv on what a channel gives them: the socket itself, or where TLS is between, a pipe.

Both ends are watched by what the connection has moved, not by the clock: a stream that stands still for too long is
broken off, and what arrived of it is kept for resuming (`recv -s`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from holdfast.agent.ports import Channel, ReceiveOrder, SendOrder, VolumesError
from holdfast.agent.storage.zfs import names
from holdfast.agent.storage.zfs.command import failure, reap, start
from holdfast.coordinator.model.names import check_dataset

STALL = 30.0
"""Seconds without a byte acknowledged. zfs recv may take this long to write out what it has taken."""


class StreamChannel(Channel, Protocol):
    """A channel that child processes can write into and read from."""

    def sending(self) -> AbstractAsyncContextManager[int]:
        """A descriptor for the child that writes the stream. With the block ends the stream; the child is gone then."""

    def receiving(self) -> AbstractAsyncContextManager[int]:
        """A descriptor for the child that reads the stream; it is gone when the block is left."""


def send_args(order: SendOrder) -> list[str]:
    """zfs-send(8): compressed, embedded and large blocks as they lie on disk; raw where encrypted (DESIGN §7)."""
    if order.resume_token is not None:
        return ["send", "-t", order.resume_token]
    args = ["send", "-w"] if order.raw else ["send", "-L", "-e", "-c"]
    if order.base is not None:
        dataset = order.source.partition("@")[0]
        base = order.base if order.base.startswith("@") else dataset + order.base
        args += ["-i", names.check_snapshot(dataset + order.base) and base]
    return [*args, names.check_snapshot(order.source)]


def receive_args(order: ReceiveOrder) -> list[str]:
    """zfs-receive(8): resumable, unmounted, closed to the host, marked as ours on the dataset itself."""
    args = ["recv", "-s", "-u"]
    if not order.resume:
        closed = {"readonly": "on", names.REPLICA: order.mark}
        if order.kind == "volume":
            closed["volmode"] = "none"
        else:
            closed["canmount"] = "noauto"
        for key, value in closed.items():
            args += ["-o", f"{key}={value}"]
    return [*args, check_dataset(order.dataset)]


async def send(order: SendOrder, channel: StreamChannel) -> None:
    """Write a stream into the channel. Raises VolumesError."""
    async with channel.sending() as descriptor:
        await _move(send_args(order), channel, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor)


async def receive(order: ReceiveOrder, channel: StreamChannel) -> None:
    """Read a stream from the channel. Raises VolumesError."""
    async with channel.receiving() as descriptor:
        await _move(receive_args(order), channel, stdin=descriptor, stdout=asyncio.subprocess.DEVNULL)


async def _move(args: Sequence[str], channel: Channel, *, stdin: int, stdout: int) -> None:
    process = await start(*args, stdin=stdin, stdout=stdout)
    stalled = False
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(channel))
            talk = group.create_task(process.communicate())
            await asyncio.wait((watch, talk), return_when=asyncio.FIRST_COMPLETED)
            if not talk.done():
                stalled = True
                channel.abort()  # zfs sees the end of its stream, keeps what it has, and ends
                await asyncio.wait((talk,), timeout=STALL)
                await reap(process)
            watch.cancel()
    finally:
        await reap(process)
    _, err = talk.result()
    if stalled:
        raise VolumesError(f"zfs {args[0]} moved nothing for {STALL:.0f} s: is the link or the pool stuck?")
    if process.returncode:
        raise VolumesError(failure(args, process.returncode, err))


async def _watch(channel: Channel) -> None:
    """Return when nothing has moved for STALL seconds."""
    before = -1
    while (now := channel.transferred()) != before:
        before = now
        await asyncio.sleep(STALL)
