"""Who is to own guests that nobody owns yet. Pure; guards invariant 1: an owner that exists is never changed here."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.desired import Desired

FIRST_EPOCH = 1

REQUESTS_KEPT = timedelta(days=1)


def home(desired: Desired, vmid: int) -> str | None:
    """The node where a guest is wanted, else where it was last seen; None where neither is known."""
    placement, guest = desired.placements.get(vmid), desired.guests.get(vmid)
    return (placement.node if placement else None) or (guest.node if guest else None)


def first_owners(desired: Desired, owned: Collection[int], by: str, now: datetime) -> dict[int, Owner]:
    """Owners to create, by VMID.

    `owned` are the guests that have an owner's key, readable or not. A guest whose node is not known, or is none of
    the nodes, gets none: nobody could carry out what owning means.
    """
    return {
        vmid: Owner(node=node, epoch=FIRST_EPOCH, since=now, by=by)
        for vmid in sorted(desired.guests)
        if vmid not in owned and (node := home(desired, vmid)) in desired.nodes and node is not None
    }


def stale_requests(requests: Mapping[str, Request], now: datetime) -> list[str]:
    """Requests that were made so long ago that they have been carried out or never will be."""
    return sorted(id for id, request in requests.items() if now - request.asked > REQUESTS_KEPT)
