"""The Host port on Linux."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from functools import partial
from pathlib import Path

from holdfast.agent.ports import Outcome
from holdfast.coordinator.sd_notify import notify


class LinuxHost:
    """This machine. Durable state lies in one folder, a file each."""

    def __init__(self, state: Path) -> None:
        self._state = state
        state.mkdir(parents=True, exist_ok=True)

    @property
    def zone(self) -> tzinfo:
        """The system's zone."""
        return datetime.now().astimezone().tzinfo or UTC

    def now(self) -> datetime:
        """UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """CLOCK_BOOTTIME: it counts while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def blocking(self, call: Callable[[], Outcome]) -> Outcome:
        """In a thread."""
        return await asyncio.to_thread(call)

    def load(self, name: str) -> bytes | None:
        """Read a file."""
        try:
            return (self._state / name).read_bytes()
        except FileNotFoundError:
            return None

    async def save(self, name: str, data: bytes) -> None:
        """Replace a file; a sync may take long."""
        await self.blocking(partial(self._replace, name, data))

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

    def notify(self, state: str) -> None:
        """sd_notify(3)."""
        notify(state)
