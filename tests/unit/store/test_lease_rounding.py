"""What is left of a lease when clocks round differently."""

import asyncio
from typing import Any

import pytest
from holdfast.coordinator.store.lease import HeldLease
from holdfast.coordinator.store.port import LeaseLost


class _Silent:
    """A store that never answers."""

    async def keep_alive(self, lease_id: int, key: str) -> Any:
        await asyncio.Event().wait()


async def test_a_term_that_is_shorter_than_any_timer_has_run_out() -> None:
    # the moment at which the loop's clock and the lease's differ in their last digits
    lease = HeldLease(_Silent(), 1, 10.0, until=100.0, clock=lambda: 100.0 - 1e-9)  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(1.0):
            await lease.keep("key", 7)
