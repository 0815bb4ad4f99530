"""Runs zfs(8). Every process of the ZFS back end starts here: an argv, never a shell, reaped whatever happens."""

import asyncio

from holdfast.agent.ports import VolumesError
from holdfast.agent.storage import child
from holdfast.agent.storage.child import failure

TIMEOUT = 120.0
"""Seconds after which a command that only changes or lists metadata is given up: its pool is probably suspended."""


# systemd gives the agent a mount namespace of its own, in which nobody would see what is mounted; and the host would go
# on seeing what is not any more.
_SEEN_BY_THE_HOST = ("nsenter", "--mount=/proc/1/ns/mnt", "--")


async def run(*args: str, stdin: bytes | None = None, mounts: bool = False) -> bytes:
    """Run `zfs ARGS` and return what it printed. Raises VolumesError with its words if it fails or hangs.

    `mounts`: it mounts or unmounts file systems, which the host is to see.
    """
    source = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    process = await start(*args, stdin=source, stdout=asyncio.subprocess.PIPE, mounts=mounts)
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        raise VolumesError(
            f"zfs {args[0]} did not end within {TIMEOUT:.0f} s; is the pool suspended? Look at zpool status."
        ) from None
    finally:
        await child.reap(process)
    if process.returncode:
        raise VolumesError(failure(("zfs", *args), process.returncode, err))
    return out


async def start(*args: str, stdin: int, stdout: int, mounts: bool = False) -> asyncio.subprocess.Process:
    """Start `zfs ARGS`; the caller reaps it."""
    where = _SEEN_BY_THE_HOST if mounts else ()
    return await child.start((*where, "zfs", *args), stdin=stdin, stdout=stdout)
