"""Time as the loops see it: given from outside, so that a simulator can run them on virtual time.

To wait, they use asyncio, whose loop a simulator brings along too.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A wall clock, for what people read; a monotonic one, for every interval."""

    def now(self) -> datetime:
        """Aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME: it goes on while the machine is suspended, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """The machine's. The monotonic one is CLOCK_BOOTTIME."""

    def now(self) -> datetime:
        """Aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since boot."""
        return boottime()
