"""Children of the storage back ends: started by an argv, never by a shell, bound to this process, and reaped.

A stream's child has the connection itself, or where TLS is between, a pipe. It is watched by what the connection has
moved, not by the clock: one that stands still for too long is broken off.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from holdfast.agent.ports import Channel, Refused, VolumesError
from holdfast.coordinator.grouped import TaskGroup

STALL = 30.0
"""Seconds without a byte acknowledged. The receiving storage may take this long to write out what it has taken."""

# A child must not outlive the agent: after kill -9 of the agent an orphan would hold the volume busy, or write on under
# an epoch that nobody checks any more. setpriv(1) arms PR_SET_PDEATHSIG and becomes the command.
_BOUND_TO_US = ("setpriv", "--pdeathsig", "KILL", "--")

# systemd gives the agent a mount namespace of its own, in which nobody would see what is mounted; and the host would go
# on seeing what is not any more. Its /sys is read-only, too.
_SEEN_BY_THE_HOST = ("nsenter", "--mount=/proc/1/ns/mnt", "--")


class StreamChannel(Channel, Protocol):
    """A channel that child processes can write into and read from."""

    def sending(self) -> AbstractAsyncContextManager[int]:
        """A descriptor for the child that writes the stream. With the block ends the stream; the child is gone then."""

    def receiving(self) -> AbstractAsyncContextManager[int]:
        """A descriptor for the child that reads the stream; it is gone when the block is left."""


async def start(argv: Sequence[str], *, stdin: int, stdout: int, mounts: bool = False) -> asyncio.subprocess.Process:
    """Start a command; the caller reaps it. Its standard error is a pipe.

    `mounts`: it makes or undoes mounts or devices, which the host is to see.
    """
    where = _SEEN_BY_THE_HOST if mounts else ()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CEPH_")}
    return await asyncio.create_subprocess_exec(
        *_BOUND_TO_US, *where, *argv, stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.PIPE, env=environment
    )


async def run(
    argv: Sequence[str], *, limit: float, hint: str, stdin: bytes | None = None, mounts: bool = False
) -> bytes:
    """Run a command to its end and return what it printed. Raises VolumesError with its words if it fails.

    If it does not end within `limit` seconds it is killed; `hint` says what may be the matter. `mounts`: see `start`.
    """
    source = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    process = await start(argv, stdin=source, stdout=asyncio.subprocess.PIPE, mounts=mounts)
    try:
        async with asyncio.timeout(limit):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        raise VolumesError(f"{argv[0]} {argv[1]} did not end within {limit:.0f} s; {hint}") from None
    finally:
        await reap(process)
    if process.returncode:
        raise VolumesError(failure(argv, process.returncode, err))
    return out


async def reap(process: asyncio.subprocess.Process) -> None:
    """Kill a child that still runs, and wait for it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await asyncio.shield(process.wait())


async def move(argv: Sequence[str], channel: Channel, *, stdin: int, stdout: int) -> None:
    """Run the command of one end of a stream until it ends. Raises VolumesError if it fails or stands still."""
    process = await start(argv, stdin=stdin, stdout=stdout)
    stalled = False
    try:
        async with TaskGroup() as group:
            watch = group.create_task(_watch(channel))
            talk = group.create_task(process.communicate())
            await asyncio.wait((watch, talk), return_when=asyncio.FIRST_COMPLETED)
            if not talk.done():
                stalled = True
                channel.abort()  # the command sees the end of its stream, keeps what it has, and ends
                await asyncio.wait((talk,), timeout=STALL)
                await reap(process)
            watch.cancel()
    finally:
        await reap(process)
    _, err = talk.result()
    if stalled:
        raise VolumesError(f"{argv[0]} {argv[1]} moved nothing for {STALL:.0f} s: is the link or the pool stuck?")
    if process.returncode:
        raise VolumesError(failure(argv, process.returncode, err))


async def _watch(channel: Channel) -> None:
    """Return when nothing has moved for STALL seconds."""
    before = -1
    while (now := channel.transferred()) != before:
        before = now
        await asyncio.sleep(STALL)


def failure(argv: Sequence[str], returncode: int, stderr: bytes) -> str:
    """What to tell an operator of a failed command."""
    said = " ".join(stderr.decode(errors="replace").split()) or f"exit code {returncode}"
    shown = " ".join(arg if len(arg) < 80 else f"{arg[:77]}…" for arg in argv[:7])
    return f"{shown}{' …' if len(argv) > 7 else ''}: {said}"


def stream(channel: Channel) -> StreamChannel:
    """The channel, if a child can be given it. Raises Refused."""
    if not hasattr(channel, "sending"):
        raise Refused("NoStream", "this storage needs a connection that a process can be given.")
    return channel  # type: ignore[return-value]  # checked just above
