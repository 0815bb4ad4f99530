"""What the parts of one agent share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.agent.locking import GuestLocks
from holdfast.agent.ports import Host, Volumes
from holdfast.agent.scanner import Scanner
from holdfast.agent.slots import Slots
from holdfast.agent.transfer.sender import Sender
from holdfast.agent.view import View


@dataclass(frozen=True, slots=True)
class Context:
    """One node's agent: who it is, what it knows, and the ports that it acts through."""

    me: str
    view: View
    volumes: Volumes
    host: Host
    scanner: Scanner
    sender: Sender
    slots: Slots
    locks: GuestLocks
    report: Callable[[], None]
    """Something that is reported has changed."""

    def later(self, seconds: float) -> datetime:
        """The wall clock so many seconds from now."""
        return self.host.now() + timedelta(seconds=seconds)
