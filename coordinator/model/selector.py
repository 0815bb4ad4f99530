"""Which guests a policy is for."""

from typing import Self

from holdfast.coordinator.model.names import PoolName, StoreId, Tag, Vmid
from holdfast.coordinator.model.record import Record
from pydantic import model_validator


class Selector(Record):
    """Which guests: exactly one of these. A guest that no policy selects is reported as unprotected."""

    vmid: tuple[Vmid, ...] | None = None
    """Guests of these VMIDs."""
    tag: tuple[Tag, ...] | None = None
    """Guests with at least one of these tags."""
    pool: tuple[PoolName, ...] | None = None
    """Guests in one of these resource pools."""
    storage: tuple[StoreId, ...] | None = None
    """Guests with at least one disk on one of these storages."""
    all: bool | None = None
    """Every guest."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give exactly one of vmid, tag, pool, storage (each a non-empty list) or all: true")
        return self
