"""What this agent knows of the keyspace: desired state in force, owners, and what follows for each guest."""

import asyncio
from collections.abc import Mapping
from datetime import tzinfo

import structlog
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Meta, Owner
from holdfast.coordinator.planning.assignment import Assignment, Protection, assign
from holdfast.coordinator.planning.desired import Desired, Records
from holdfast.coordinator.planning.kept import Rules, on_replica
from pydantic import ValidationError

log = structlog.get_logger()


class View:
    """Takes keys as the cache delivers them. `changed` fires after each."""

    def __init__(self, keyspace: Keyspace, me: str, last_good: Mapping[str, bytes]) -> None:
        self._keys = keyspace
        self._me = me
        self._records = Records(last_good)
        self._owners: dict[int, Owner] = {}
        self._meta: Meta | None = None
        self._desired = Desired()
        self._protections: dict[int, Protection] = {}
        self._stale = True
        self._waiters: dict[asyncio.Event, None] = {}  # ordered: whoever subscribed first is woken first

    def put(self, key: str, value: bytes, create_revision: int) -> None:
        """A key was written."""
        try:
            if key.startswith(self._keys.desired_prefix):
                self._records.put(key.removeprefix(self._keys.desired_prefix), value, create_revision)
            elif key.startswith(self._keys.owners_prefix):
                self._owners[int(key.removeprefix(self._keys.owners_prefix))] = Owner.model_validate_json(value)
            elif key == self._keys.meta:
                self._meta = Meta.model_validate_json(value)
        except (ValidationError, ValueError) as error:  # an owner or meta that cannot be read: the last one stays
            log.error("unreadable record; the last good one stays in force", key=key, error=str(error))
        self._touch()

    def delete(self, key: str) -> None:
        """A key was deleted."""
        if key.startswith(self._keys.desired_prefix):
            self._records.delete(key.removeprefix(self._keys.desired_prefix))
        elif key.startswith(self._keys.owners_prefix):
            vmid = key.removeprefix(self._keys.owners_prefix)
            if vmid.isdecimal():
                self._owners.pop(int(vmid), None)
        self._touch()

    def _touch(self) -> None:
        self._stale = True
        for waiter in self._waiters:
            waiter.set()

    def subscribe(self) -> asyncio.Event:
        """An event that is set at every change; give it back by `unsubscribe`."""
        event = asyncio.Event()
        self._waiters[event] = None
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Undo `subscribe`."""
        self._waiters.pop(event, None)

    def _refresh(self) -> None:
        if self._stale:
            self._desired = self._records.desired()
            self._protections = assign(self._desired, self._owners)
            self._stale = False

    @property
    def last_good(self) -> Mapping[str, bytes]:
        """Desired state in force, to be kept over a restart."""
        return self._records.last_good

    @property
    def desired(self) -> Desired:
        """Desired state in force."""
        self._refresh()
        return self._desired

    @property
    def generation(self) -> int | None:
        """The keyspace's generation; None if it has never been read."""
        return self._meta.generation if self._meta else None

    def owner(self, vmid: int) -> Owner | None:
        """The guest's owner."""
        return self._owners.get(vmid)

    def protection(self, vmid: int) -> Protection | None:
        """What is to be done for a guest; None if there is no such guest."""
        self._refresh()
        return self._protections.get(vmid)

    def assignment_here(self, vmid: int) -> Assignment | None:
        """How a guest is to be replicated to this node."""
        protection = self.protection(vmid)
        return next((a for a in protection.assignments if a.node == self._me), None) if protection else None

    def rules_here(self, vmid: int, zone: tzinfo) -> Rules | None:
        """What of the guest's points is to stay on this node, if it is replicated here."""
        assignment = self.assignment_here(vmid)
        return on_replica(self.desired, assignment, zone) if assignment else None

    def owned(self) -> dict[int, Owner]:
        """The guests that this node owns and that are still desired."""
        self._refresh()
        return {v: o for v, o in sorted(self._owners.items()) if o.node == self._me and v in self._protections}
