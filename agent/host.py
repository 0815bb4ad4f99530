"""The Host port on Linux."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo

from holdfast.agent.ports import Outcome
from holdfast.coordinator import host
from holdfast.coordinator.sd_notify import notify


class LinuxHost(host.LinuxHost):
    """This machine: what a coordinator needs of it, and more."""

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
