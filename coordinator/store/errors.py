"""From what gRPC and etcd report to the port's errors, and to the one fact that decides about a retry.

A request that certainly never reached the store's log may be sent again; any other failure of a write leaves its
outcome unknown.
"""

import re

import grpc
from holdfast.coordinator.store.port import (
    Compacted,
    LeaseLost,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    Refused,
    StoreError,
    Unavailable,
    WentBack,
)

# The member or the way to it is at fault, another one may do better.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}
# etcd's and gRPC's words (no other mark is sent) for requests that were turned away before they changed anything.
_NOT_CARRIED_OUT = re.compile(
    r"failed to connect|etcdserver: (no leader|too many requests|not capable)|revision of auth store is old"
)
# A token that has expired, that the member has forgotten at a restart, or that rights were changed after.
_LOGIN_AGAIN = re.compile(r"invalid auth token|revision of auth store is old|user name is empty")
_UNKNOWN_LEASE = "requested lease not found"


def passing(error: grpc.aio.AioRpcError) -> bool:
    """Whether another try, at another member, can help."""
    return error.code() in _PASSING or not_carried_out(error)


def not_carried_out(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request certainly changed nothing, so that even a write may be sent again."""
    return bool(_NOT_CARRIED_OUT.search(error.details() or ""))


def login_again(error: grpc.aio.AioRpcError) -> bool:
    """Whether the request was refused, unseen, for its token alone."""
    return bool(_LOGIN_AGAIN.search(error.details() or ""))


def auth_is_off(error: grpc.aio.AioRpcError) -> bool:
    """Whether a login failed because etcd asks nobody for one."""
    return "authentication is not enabled" in (error.details() or "")


def wrong_password(error: grpc.aio.AioRpcError) -> bool:
    """Whether a login failed because of the user or the password."""
    return "invalid user ID or password" in (error.details() or "")


def translate(error: grpc.aio.AioRpcError, what: str, endpoint: str) -> StoreError:
    """The port's error for a failure that no other try will mend. `what`: what was asked, for the operator."""
    said = error.details() or error.code().name
    where = f"{what}, asked of etcd at {endpoint}: {said}"
    match error.code():
        case grpc.StatusCode.OUT_OF_RANGE:
            return Compacted(f"{where}. List again and watch from there")
        case grpc.StatusCode.NOT_FOUND if _UNKNOWN_LEASE in said:
            return LeaseLost(f"{where}. Get a new lease and claim again what it held")
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return denied(where)
        case _ if is_denial(said):
            return denied(where)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "database space exceeded" in said:
            return QuotaExceeded(f"{where}. Compact and defragment etcd, then run `etcdctl alarm disarm`")
        case _ if "too large" in said or "larger than max" in said:
            return Refused(f"{where}. A request is too large for etcd: keep values below 1.5 MiB in all")
        case _:
            return Refused(f"{where}. The request is at fault; it will not be sent again")


def is_denial(said: str) -> bool:
    """Whether etcd's words mean missing rights; a refused watch and a missing user come without a fitting code."""
    return "permission denied" in said or bool(_LOGIN_AGAIN.search(said))


def denied(where: str) -> PermissionDenied:
    """What to look at when etcd lets these credentials not do this."""
    return PermissionDenied(
        f"{where}. Check whom etcd takes this for (the user in the settings, else the common name in the certificate) "
        "and what that user may do: `etcdctl user get USER --detail`"
    )


def unavailable(what: str, endpoints: str, seconds: float, last: str) -> Unavailable:
    """No member answered."""
    return Unavailable(
        f"{what}: none of etcd's members ({endpoints}) answered within {seconds:g} s; the last said: {last}. "
        "Check `etcdctl endpoint status` and the network to them"
    )


def behind(what: str, endpoint: str, revision: int, floor: int) -> WentBack:
    """Etcd is older than what it has said before."""
    return WentBack(
        f"{what}: etcd at {endpoint} is at revision {revision} but was at {floor} before: it was restored from an old "
        "backup, or is another cluster. Stop Holdfast on all nodes before letting it go on from there"
    )


def unknown(what: str, endpoint: str, error: grpc.aio.AioRpcError) -> OutcomeUnknown:
    """A write whose answer was lost."""
    return OutcomeUnknown(
        f"{what}: the answer of etcd at {endpoint} was lost ({error.details() or error.code().name}). "
        "It may have been carried out or may yet be: read again before deciding"
    )
