"""One request to etcd: at which member, under which token, for how long, and when it may be sent again.

1. What is idempotent gets a short deadline per try and goes on to the next member.
2. A write is sent again only if it certainly was not carried out; otherwise its outcome is reported as unknown.
3. No answer is from before one that was already here when the request was sent: a member that is behind is left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from holdfast.coordinator.store import errors
from holdfast.coordinator.store.login import Metadata, Session, metadata
from holdfast.coordinator.store.members import Member, Members
from holdfast.coordinator.store.port import OutcomeUnknown, StoreError, WentBack
from holdfast.coordinator.store.tls import explain

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")
Once = Callable[[Member, Metadata], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `write` outlasts an election of etcd (0.8 to 1.3 s measured): a write is tried only once."""

    connect: float = 1.0
    read: float = 1.0
    page: float = 5.0
    write: float = 3.0
    total: float = 10.0
    pause: float = 0.1
    watch_ping: float = 1.0
    watch_idle: float = 3.0


class Again(Exception):
    """This try came to nothing, and nothing was changed by it; `final` is raised where no other helps."""

    def __init__(self, said: str, final: StoreError | None = None) -> None:
        super().__init__(said)
        self.final = final


class Calls:
    """Sends requests; knows the newest revision that any answer was from."""

    def __init__(self, members: Members, session: Session, patience: Patience) -> None:
        self.members = members
        self.session = session
        self.patience = patience
        self._revision = 0

    async def read(self, path: str, request: Message, reply: type[Reply], what: str, seconds: float) -> Reply:
        """Ask something idempotent, such as `KV/Range`, at most `seconds` per try. `what`: in words, for errors."""
        return await self.retried(lambda member, sent: self.ask(member, path, request, reply, seconds, sent), what)

    async def write(self, path: str, request: Message, reply: type[Reply], what: str) -> Reply:
        """Ask for a change."""
        seconds = self.patience.write
        return await self.retried(
            lambda member, sent: self.ask(member, path, request, reply, seconds, sent), what, idempotent=False
        )

    async def ask(
        self, member: Member, path: str, request: Message, reply: type[Reply], seconds: float, sent: Metadata
    ) -> Reply:
        """Ask one member once. AioRpcError, `WentBack`."""
        floor = self._revision
        answer = await member.unary(f"/etcdserverpb.{path}", reply)(request, timeout=seconds, metadata=sent)
        assert isinstance(answer, reply)
        if path.startswith("KV/"):  # these are linearizable; what other services report may lag
            revision = answer.header.revision  # type: ignore[attr-defined]
            if revision < floor:
                raise errors.behind(path, member.endpoint, revision, floor)
            self._revision = max(self._revision, revision)
        return answer

    async def retried(self, once: Once[Result], what: str, *, idempotent: bool = True) -> Result:
        """Try until it succeeds or cannot; Unavailable when the time is up."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.patience.total
        while True:
            await self.members.renew()
            member = self.members.current
            try:
                return await self._try(once, member, what, idempotent)
            except Again as reason:
                self.members.leave(member)
                if clock() + self.patience.pause >= deadline:
                    raise reason.final or await self._unavailable(what, member, str(reason)) from reason
            except OutcomeUnknown:
                self.members.leave(member)
                raise
            await asyncio.sleep(self.patience.pause)

    async def _try(self, once: Once[Result], member: Member, what: str, idempotent: bool) -> Result:
        token = await self._token(member, what)
        try:
            return await once(member, metadata(token))
        except WentBack as behind:
            if idempotent:
                raise Again(str(behind), behind) from behind
            raise
        except grpc.aio.AioRpcError as error:
            said = f"{member.endpoint}: {error.details() or error.code().name}"
            if errors.login_again(error) and self.session.forget(token):
                raise Again(said, errors.translate(error, what, member.endpoint)) from error
            if not errors.passing(error):
                raise errors.translate(error, what, member.endpoint) from error
            if idempotent or errors.not_carried_out(error):
                raise Again(said) from error
            raise errors.unknown(what, member.endpoint, error) from error

    async def _token(self, member: Member, what: str) -> str:
        """Nothing is in doubt while the connection and the token are waited for: the request is not yet sent."""
        if not await member.connected(self.patience.connect):
            raise Again(f"{member.endpoint} could not be connected to")
        try:
            return await self.session.token(member)
        except grpc.aio.AioRpcError as error:
            if not errors.passing(error):
                raise errors.translate(error, f"log in to {what}", member.endpoint) from error
            raise Again(f"{member.endpoint}: {error.details() or error.code().name}") from error

    async def _unavailable(self, what: str, member: Member, said: str) -> StoreError:
        tls = self.members.tls
        reason = await explain(member.endpoint, tls) if tls else None
        return errors.unavailable(what, str(self.members), self.patience.total, reason or said)
