"""A user's token for etcd: fetched by password, shared by all calls, fetched anew when etcd no longer takes it.

Without a user there is no token: etcd then goes by the common name in the client certificate, if it looks at all.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
from holdfast.coordinator.store import errors
from holdfast.coordinator.store.members import HAS_LEADER, Member
from holdfast.coordinator.store.port import PermissionDenied
from holdfast.proto import etcd_pb2 as pb

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_LIMIT = 3.0  # seconds; etcd's bcrypt takes 0.1 s of CPU on purpose, several at once take longer


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd. The password is read at each login, so that it can be changed under a running process."""

    user: str
    password_file: Path

    def password(self) -> str:
        """The file's first line. PermissionDenied if it cannot be read."""
        try:
            lines = self.password_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PermissionDenied(
                f"the password of etcd's user {self.user} cannot be read from {self.password_file}: {error}"
            ) from error
        return lines[0] if lines else ""


class Session:
    """The token in use; one login at a time."""

    def __init__(self, login: Login | None) -> None:
        self.login = login
        self._token: str | None = None  # "" where etcd does not ask for one
        self._one = asyncio.Lock()

    async def token(self, member: Member) -> str:
        """The token to send; logs in at `member` if there is none. AioRpcError, PermissionDenied."""
        if self.login is None:
            return ""
        async with self._one:
            if self._token is None:
                self._token = await self._log_in(self.login, member)
            return self._token

    def forget(self, token: str) -> bool:
        """Etcd refused this token: the next call logs in. False if there is no user to log in."""
        if self._token == token:  # else another call has done it already
            self._token = None
        return self.login is not None

    async def _log_in(self, login: Login, member: Member) -> str:
        request = pb.AuthenticateRequest(name=login.user, password=await asyncio.to_thread(login.password))
        method = member.unary("/etcdserverpb.Auth/Authenticate", pb.AuthenticateResponse)
        try:
            reply = await method(request, timeout=_LIMIT, metadata=HAS_LEADER)
        except grpc.aio.AioRpcError as error:
            if errors.auth_is_off(error):
                return ""
            if errors.wrong_password(error):
                raise PermissionDenied(
                    f"etcd at {member.endpoint} does not take the password in {login.password_file} for the user "
                    f"{login.user}: write the right one there, or set it with `etcdctl user passwd {login.user}`"
                ) from error
            raise
        return str(reply.token)


def metadata(token: str) -> Metadata:
    """What to send along with a request."""
    return (*HAS_LEADER, ("token", token)) if token else HAS_LEADER
