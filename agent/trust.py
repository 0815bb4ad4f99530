"""The revocation list in force: the newest that the authority has signed, from the keyspace, kept over a restart.

Whoever can write the keyspace can withhold a newer list, but can neither forge one nor bring an older one back.
"""

import asyncio

import structlog
from holdfast.agent.ports import Host
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.revocation import BadRevocationList
from holdfast.coordinator.store.cache import Change

log = structlog.get_logger()

REVOKED = "revoked.pem"


class Trust:
    """Keeps `credentials.revoked` current. An operator may also put the list into the state folder by hand."""

    def __init__(self, credentials: Credentials, host: Host) -> None:
        self._credentials = credentials
        self._host = host
        self._newest: bytes | None = None
        self._changed = asyncio.Event()
        if (kept := host.load(REVOKED)) is not None:
            self._take(kept, "the state folder")

    def on_change(self, change: Change) -> None:
        """The list in the keyspace was written."""
        if change.new is not None and self._take(change.new.value, "etcd"):
            self._newest = change.new.value
            self._changed.set()

    def _take(self, pem: bytes, where: str) -> bool:
        try:
            newer = self._credentials.revoke(pem)
        except BadRevocationList as error:
            log.error("a revocation list is not taken", where=where, error=str(error))
            return False
        if newer:
            log.info("revoked certificates", where=where, count=len(self._credentials.revoked.serials))
        return newer

    async def run(self) -> None:
        """Until cancelled: save what is new."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is not None:
                await self._host.save(REVOKED, self._newest)
