"""Runs zfs(8). Every process of the ZFS back end starts here: an argv, never a shell, reaped whatever happens."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from holdfast.agent.ports import VolumesError

TIMEOUT = 120.0
"""Seconds after which a command that only changes or lists metadata is given up: its pool is probably suspended."""

# A child must not outlive the agent: after kill -9 of the agent an orphaned `zfs recv` would hold the dataset busy, or
# write on under an epoch that nobody checks any more. setpriv(1) arms PR_SET_PDEATHSIG and becomes the command.
_BOUND_TO_US = ("setpriv", "--pdeathsig", "KILL", "--")


async def run(*args: str, stdin: bytes | None = None) -> bytes:
    """Run `zfs ARGS` and return what it printed. Raises VolumesError with its words if it fails or hangs."""
    source = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    process = await start(*args, stdin=source, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        raise VolumesError(
            f"zfs {args[0]} did not end within {TIMEOUT:.0f} s; is the pool suspended? Look at zpool status."
        ) from None
    finally:
        await reap(process)
    if process.returncode:
        raise VolumesError(failure(args, process.returncode or 0, err))
    return out


async def start(*args: str, stdin: int, stdout: int) -> asyncio.subprocess.Process:
    """Start `zfs ARGS`; the caller reaps it."""
    return await asyncio.create_subprocess_exec(
        *_BOUND_TO_US, "zfs", *args, stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.PIPE
    )


async def reap(process: asyncio.subprocess.Process) -> None:
    """Kill a child that still runs, and wait for it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await asyncio.shield(process.wait())


def failure(args: Sequence[str], returncode: int, stderr: bytes) -> str:
    """What to tell an operator of a failed command."""
    said = " ".join(stderr.decode(errors="replace").split()) or f"exit code {returncode}"
    shown = " ".join(arg if len(arg) < 80 else f"{arg[:77]}…" for arg in args[:6])
    return f"zfs {shown}{' …' if len(args) > 6 else ''}: {said}"
