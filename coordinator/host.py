"""The machine as a process of ours sees it: clocks, and small durable files. A simulator brings its own."""

import asyncio
import os
from pathlib import Path
from typing import Protocol

from holdfast.coordinator.clock import Clock, SystemClock


class Host(Clock, Protocol):
    """What a coordinator needs of its machine."""

    def load(self, name: str) -> bytes | None:
        """Read a small piece of durable state; None if there is none."""
        ...

    async def save(self, name: str, data: bytes) -> None:
        """Replace a small piece of durable state, atomically."""
        ...


class LinuxHost(SystemClock):
    """This machine. Durable state lies in one folder, a file each."""

    def __init__(self, state: Path) -> None:
        """OSError if the folder cannot be made."""
        self._state = state
        state.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> bytes | None:
        """Read a file."""
        try:
            return (self._state / name).read_bytes()
        except FileNotFoundError:
            return None

    async def save(self, name: str, data: bytes) -> None:
        """Replace a file, in a thread: a sync may take long."""
        await asyncio.to_thread(self._replace, name, data)

    def _replace(self, name: str, data: bytes) -> None:
        """Write beside it, sync, rename: after a power cut there is the old one or the new one."""
        temporary = self._state / f".{name}.new"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._state / name)
        folder = os.open(self._state, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
