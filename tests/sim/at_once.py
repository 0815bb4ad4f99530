"""The ZFS model as the Volumes port, without the simulator: calls take no time; a look ends a transaction group."""

from datetime import UTC, datetime
from typing import Any

from .zfs import Storage


class AtOnce:
    """Calls go to the model by their names."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def scan(self) -> Any:
        self._storage.sync()
        return self._storage.scan(datetime.now(UTC))

    async def release(self, names: list[str]) -> None:
        self._storage.hold(names, held=False)

    async def clients(self, datasets: list[str]) -> tuple[str, ...]:
        return ()

    async def kernel_names(self, datasets: list[str]) -> dict[str, str]:
        return {}

    async def promote(self, *args: Any) -> None:
        self._storage.promote_clone(*args)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        async def call(*args: Any) -> Any:
            return method(*args)

        return call
