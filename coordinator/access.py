"""etcd's users and roles: who is let in, by the common name of the certificate (`--client-cert-auth`).

No user has a password: the certificate is the only way in. Everything here can be repeated; a run that was cut short
is gone on with by the next.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from holdfast.coordinator.identity.identity import ROOT, Identity
from holdfast.coordinator.identity.rights import EtcdRole, Right, role_for
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store import errors, keys
from holdfast.coordinator.store.members import Members
from holdfast.coordinator.store.tls import Tls
from holdfast.proto import etcd_auth_pb2 as pb

_TIMEOUT = 5.0
_SERVICE = "/etcdserverpb.Auth/"
_DONE_ALREADY = ("already exists", "already enabled")
_GONE_ALREADY = ("user name not found", "role name not found")

Reply = TypeVar("Reply", bound=Message)


class Access:
    """Changes users and roles; as `root`. Make and close it on the event loop that uses it. Raises StoreError."""

    def __init__(self, endpoints: Sequence[str], tls: Tls) -> None:
        self._members = Members(endpoints, tls)

    async def close(self) -> None:
        """Close the connections."""
        await self._members.close()

    async def set_up(self) -> None:
        """The administrator's user, and from now on nobody without a role."""
        await self._change("UserAdd", _user(ROOT))
        await self._change("RoleAdd", pb.AuthRoleAddRequest(name=ROOT))
        await self._change("UserGrantRole", pb.AuthUserGrantRoleRequest(user=ROOT, role=ROOT))
        await self._change("AuthEnable", pb.AuthEnableRequest())

    async def admit(self, identity: Identity, keyspace: Keyspace) -> None:
        """A user for an identity, with its role's rights, no more and no fewer."""
        role = role_for(identity, keyspace)
        if role is None:
            return
        await self._change("RoleAdd", pb.AuthRoleAddRequest(name=role.name))
        await self._set_rights(role)
        await self._change("UserAdd", _user(identity.common_name))
        await self._change("UserGrantRole", pb.AuthUserGrantRoleRequest(user=identity.common_name, role=role.name))

    async def expel(self, identity: Identity) -> None:
        """Delete an identity's own user: what it asks from then on is refused, over open connections too.

        The administrators' one user stays, whichever of their certificates is revoked.
        """
        if identity.common_name == ROOT:
            return
        await self._change("UserDelete", pb.AuthUserDeleteRequest(name=identity.common_name), _GONE_ALREADY)

    async def rights(self, role: str) -> frozenset[tuple[bytes, bytes, int]] | None:
        """(key, range end, type) of each right of a role; None if there is no such role."""
        try:
            reply = await self._call("RoleGet", pb.AuthRoleGetRequest(role=role), pb.AuthRoleGetResponse)
        except grpc.aio.AioRpcError as error:
            if _says(error, _GONE_ALREADY):
                return None
            raise errors.translate(error, f"read role {role}", str(self._members)) from None
        return frozenset((each.key, each.range_end, each.permType) for each in reply.perm)

    async def roles_of(self, user: str) -> tuple[str, ...] | None:
        """A user's roles; None if there is no such user."""
        try:
            reply = await self._call("UserGet", pb.AuthUserGetRequest(name=user), pb.AuthUserGetResponse)
        except grpc.aio.AioRpcError as error:
            if _says(error, _GONE_ALREADY):
                return None
            raise errors.translate(error, f"read user {user}", str(self._members)) from None
        return tuple(reply.roles)

    async def _set_rights(self, role: EtcdRole) -> None:
        wanted = wanted_rights(role.rights)
        present = await self.rights(role.name) or frozenset()
        for key, end, _ in present - wanted:
            gone = pb.AuthRoleRevokePermissionRequest(role=role.name, key=key, range_end=end)
            await self._change("RoleRevokePermission", gone)
        for key, end, kind in wanted - present:
            right = pb.Permission(permType=pb.Permission.Type.Name(kind), key=key, range_end=end)
            await self._change("RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=role.name, perm=right))

    async def _change(self, method: str, request: Message, fine: Iterable[str] = _DONE_ALREADY) -> None:
        try:
            await self._call(method, request, pb.AuthReply)
        except grpc.aio.AioRpcError as error:
            if not _says(error, fine):
                raise errors.translate(error, f"etcd's Auth/{method}", str(self._members)) from None

    async def _call(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Ask one member after the other; each request can be repeated."""
        last: grpc.aio.AioRpcError | None = None
        for member in self._members.all():
            try:
                answer: Reply = await member.unary(_SERVICE + method, reply)(request, timeout=_TIMEOUT)
                return answer
            except grpc.aio.AioRpcError as error:
                if not errors.passing(error):
                    raise
                last = error
        assert last is not None, "there is at least one member"
        said = last.details() or last.code().name
        raise errors.unavailable(f"etcd's Auth/{method}", str(self._members), _TIMEOUT, said)


def wanted_rights(rights: Iterable[Right]) -> frozenset[tuple[bytes, bytes, int]]:
    """As etcd keeps them: (key, range end, type)."""
    made = set()
    for right in rights:
        start, end = keys.prefix_range(right.key) if right.prefix else (keys.encode(right.key), b"")
        made.add((start, end, int(pb.Permission.WRITE if right.write else pb.Permission.READ)))
    return frozenset(made)


def _user(name: str) -> pb.AuthUserAddRequest:
    return pb.AuthUserAddRequest(name=name, options=pb.UserAddOptions(no_password=True))


def _says(error: grpc.aio.AioRpcError, words: Iterable[str]) -> bool:
    said = error.details() or ""
    return any(word in said for word in words)
