"""`holder.py` as a child: its lines, and the signals that tests send it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path


class Child:
    """A process that holds something leased."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, seconds: float = 15) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            return (await self._process.stdout.readline()).decode().strip()

    async def until(self, start: str) -> str:
        """Its next line that starts so."""
        while not (line := await self.line()).startswith(start):
            assert line, f"it ended before it said {start!r}"
        return line

    async def drain(self) -> None:
        """Read away what it has said so far; only while it is stopped."""
        with contextlib.suppress(TimeoutError):
            while await self.line(0.3):
                pass

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill9(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def holding(endpoints: Sequence[str], kind: str, what: str | int, ttl: float) -> AsyncIterator[Child]:
    """A child that is about to hold a `lock` or win an `election`."""
    script = Path(__file__).parent / "holder.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        ",".join(endpoints),
        kind,
        str(what),
        str(ttl),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.kill9()
