"""Runs zfs(8), for all but streams: an argv, never a shell, reaped whatever happens."""

from holdfast.agent.storage import child

TIMEOUT = 120.0
"""Seconds after which a command that only changes or lists metadata is given up: its pool is probably suspended."""


async def run(*args: str, stdin: bytes | None = None, mounts: bool = False) -> bytes:
    """Run `zfs ARGS` and return what it printed. Raises VolumesError with its words if it fails or hangs.

    `mounts`: it mounts or unmounts file systems, which the host is to see.
    """
    hint = "is the pool suspended? Look at zpool status."
    return await child.run(("zfs", *args), limit=TIMEOUT, hint=hint, stdin=stdin, mounts=mounts)
