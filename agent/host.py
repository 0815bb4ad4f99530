"""The Host port on Linux."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from holdfast.agent.guests.pauser import Pauser
from holdfast.agent.ports import GuestHere, Outcome, Pause
from holdfast.coordinator import host
from holdfast.coordinator.sd_notify import notify


class LinuxHost(host.LinuxHost):
    """This machine: what a coordinator needs of it, and more."""

    def __init__(self, state: Path, guests: Pauser | None = None) -> None:
        """OSError if the folder for durable state cannot be made."""
        super().__init__(state)
        self._guests = guests or Pauser()

    @property
    def zone(self) -> tzinfo:
        """The system's zone."""
        return datetime.now().astimezone().tzinfo or UTC

    async def blocking(self, call: Callable[[], Outcome]) -> Outcome:
        """In a thread."""
        return await asyncio.to_thread(call)

    def notify(self, state: str) -> None:
        """sd_notify(3)."""
        notify(state)

    def pause(self, guest: GuestHere) -> AbstractAsyncContextManager[Pause]:
        """By a child process, which lets the guest go on whatever becomes of this one."""
        return self._guests.pause(guest)

    async def users(self, guest: GuestHere) -> tuple[str, ...]:
        """By proc(5)."""
        return await self._guests.users(guest)
