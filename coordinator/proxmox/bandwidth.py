"""How fast an operation may go: the limits of its storages and of the datacenter.

Source of the rules: the behaviour of PVE::Storage::get_bandwidth_limit. All figures are KiB/s, 0 means no limit.
"""

from collections.abc import Iterable, Mapping

from . import values
from .storage_config import Storage

OPERATIONS = ("default", "clone", "migration", "move", "restore")


class BandwidthError(ValueError):
    """A storage that does not exist, or an operation that has no limits."""


def limit(
    operation: str,
    storage_ids: Iterable[str],
    storages: Mapping[str, Storage],
    datacenter: Mapping[str, float],
    override: float | None = None,
    *,
    permitted: bool = False,
) -> float:
    """Return the limit of an operation between storages.

    Each storage's limit for the operation, else its default, counts; the datacenter's counts if there is no storage, or
    one without a limit. The smallest wins, in Proxmox's order: a limit of 0 that comes last lifts those before it.
    `override` may only lower the result, unless its giver is `permitted` to change storages and datacenter.

    Raises BandwidthError.
    """
    if operation not in OPERATIONS:
        raise BandwidthError(f"{operation!r} has no bandwidth limit; operations are {', '.join(OPERATIONS)}")
    if permitted and override is not None:
        return override
    result = override
    limits = []
    for storage_id in dict.fromkeys(storage_ids):
        if storage_id not in storages:
            raise BandwidthError(f"storage {storage_id!r} does not exist")
        try:
            limits.append(values.bandwidth_limits(str(storages[storage_id].properties.get("bwlimit", ""))))
        except values.ValueRefused as error:  # of a type that we do not know, so nobody checked it
            raise BandwidthError(f"bwlimit of storage {storage_id!r}: {error}") from None
    if not limits or any(_own(given, operation) is None for given in limits):
        limits.append(dict(datacenter))
    for given in limits:
        own = _own(given, operation)
        if own is not None and (not result or own < result):
            result = own
    return result or 0


def _own(given: Mapping[str, float], operation: str) -> float | None:
    return given.get(operation, given.get("default"))
