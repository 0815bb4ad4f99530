"""What became of the requests that this node carries out: kept over a restart, so that none is carried out twice.

One that has been begun is kept whole as well: it is ended even if the keyspace has let go of it meanwhile.
"""

from collections.abc import Callable, Collection

import structlog
from holdfast.agent.ports import Host
from holdfast.coordinator.model.report import RequestReport, RequestState
from holdfast.coordinator.model.request import Request
from pydantic import BaseModel, ValidationError

log = structlog.get_logger()

FILE = "requests.json"


class _Kept(BaseModel):
    said: dict[str, RequestReport] = {}
    begun: dict[str, Request] = {}


class Outcomes:
    """By the request's name."""

    def __init__(self, host: Host, report: Callable[[], None]) -> None:
        """`report`: called when there is something new to say."""
        self._host = host
        self._report = report
        try:
            kept = _Kept.model_validate_json(host.load(FILE) or b"{}")
        except ValidationError as error:  # of another version
            log.warning("what became of earlier requests cannot be read", error=str(error))
            kept = _Kept()
        self.known = kept.said
        self.begun = kept.begun

    def settled(self, id: str) -> bool:
        """Whether nothing more is to be done about it."""
        return id in self.known and self.known[id].settled

    def say(self, id: str, state: RequestState, message: str) -> RequestReport:
        """Note how far it is, for whoever asked."""
        before = self.known.get(id)
        if before is None or (before.state, before.message) != (state, message):
            log.info("request", id=id, state=state.value, message=message)
            self.known[id] = RequestReport(state=state, message=message, at=self._host.now())
            self._report()
        return self.known[id]

    async def begin(self, id: str, request: Request) -> None:
        """Note that it is to be ended, come what may."""
        self.begun[id] = request
        await self._save()

    async def settle(self, id: str, state: RequestState, message: str) -> None:
        """Note that nothing more is to be done about it: here first, for whoever reads it may withdraw the request."""
        log.info("request", id=id, state=state.value, message=message)
        self.begun.pop(id, None)
        self.known[id] = RequestReport(state=state, message=message, at=self._host.now())
        await self._save()
        self._report()

    async def forget(self, wanted: Collection[str]) -> None:
        """Let go of what was said of requests that are no more."""
        if gone := self.known.keys() - set(wanted):
            for id in gone:
                del self.known[id]
            await self._save()
            self._report()

    async def _save(self) -> None:
        await self._host.save(FILE, _Kept(said=self.known, begun=self.begun).model_dump_json().encode())
