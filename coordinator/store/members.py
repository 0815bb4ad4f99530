"""etcd's members: one channel to each, one of them preferred until it fails.

A channel per member and not gRPC's own balancing: a stalled member is left on purpose, and one knows whom one asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from holdfast.coordinator.store.tls import Tls

log = structlog.get_logger()

_LOOK = 1.0  # seconds between two looks at the certificate files
_GRACE = 10.0  # seconds for calls in flight on connections that were made with the certificates of before

# etcd answers pings less than 5 s apart with GOAWAY too_many_pings. Without ping_timeout_ms a stopped member was
# noticed only after 69 s (measured).
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
]
# A member that has lost its leader then says so, instead of letting requests and watches hang.
HAS_LEADER = (("hasleader", "true"),)


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """Why a stream ended; one that ended well, as a stopping member ends it, counts as unavailable."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        code = grpc.StatusCode.UNAVAILABLE
    details = await call.details() or "the stream was ended"
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None)


class Member:
    """One member and the methods called on it."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.endpoint = endpoint
        self.replaced = False
        """Its connection was made with certificates that have been replaced; long calls should leave it."""
        self.channel = (
            grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        )
        self._methods: dict[str, Any] = {}

    def unary(self, path: str, reply: type[Message]) -> Any:
        """A callable for a unary method, e.g. `/etcdserverpb.KV/Range`."""
        return self._method(path, self.channel.unary_unary, reply)

    def stream(self, path: str, reply: type[Message]) -> Any:
        """A callable for a method that streams both ways."""
        return self._method(path, self.channel.stream_stream, reply)

    def _method(self, path: str, kind: Callable[..., Any], reply: type[Message]) -> Any:
        if path not in self._methods:
            self._methods[path] = kind(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=reply.FromString,
            )
        return self._methods[path]

    async def connected(self, seconds: float) -> bool:
        """Wait for the connection: a request that waits for one is not yet sent, so nothing is in doubt."""
        ready = grpc.ChannelConnectivity.READY
        if self.channel.get_state(try_to_connect=True) is ready:
            return True
        try:
            async with asyncio.timeout(seconds):
                while (state := self.channel.get_state(try_to_connect=True)) is not ready:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        return False
                    await self.channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True


class Members:
    """The configured members; `current` is the one to ask."""

    def __init__(self, endpoints: Sequence[str], tls: Tls | None) -> None:
        """OSError if a certificate cannot be read."""
        if not endpoints:
            raise ValueError("no etcd endpoint is configured: give at least one as host:port")
        self.tls = tls
        self._endpoints = tuple(endpoints)
        self._stamp = tls.stamp() if tls else None
        self._credentials = tls.credentials() if tls else None
        self._looked = 0.0
        self._open: dict[str, Member] = {}
        self._replaced: list[tuple[float, Member]] = []
        self._preferred = 0

    def __str__(self) -> str:
        return ", ".join(self._endpoints)

    @property
    def current(self) -> Member:
        """The preferred member; its channel is made when first asked for, on the running loop."""
        return self._member(self._endpoints[self._preferred])

    def all(self) -> list[Member]:
        """Every configured member."""
        return [self._member(endpoint) for endpoint in self._endpoints]

    def leave(self, member: Member) -> None:
        """Prefer the next one, unless another caller has moved on from this one already."""
        if self._endpoints[self._preferred] == member.endpoint:
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    async def renew(self) -> None:
        """Make new connections if the certificate files have changed; those that cannot be used yet are left alone."""
        now = asyncio.get_running_loop().time()
        if self.tls is None or now < self._looked + _LOOK:
            return
        self._looked = now
        try:
            stamp = self.tls.stamp()
            if stamp != self._stamp:
                self._credentials = await asyncio.to_thread(self.tls.credentials)
                self._stamp = stamp
                self._replaced += [(now + _GRACE, member) for member in self._open.values()]
                for member in self._open.values():
                    member.replaced = True
                self._open = {}
                log.info("etcd.certificates_read", ca=str(self.tls.ca), certificate=str(self.tls.certificate))
        except OSError as error:
            log.warning("etcd.certificates_unusable", ca=str(self.tls.ca), reason=str(error))
        while self._replaced and self._replaced[0][0] <= now:
            await self._replaced.pop(0)[1].channel.close(None)

    def _member(self, endpoint: str) -> Member:
        if endpoint not in self._open:
            self._open[endpoint] = Member(endpoint, self._credentials)
        return self._open[endpoint]

    async def close(self) -> None:
        """Close all channels; calls in flight on them are cancelled."""
        opened = [*self._open.values(), *(member for _, member in self._replaced)]
        self._open, self._replaced = {}, []
        for member in opened:
            await member.channel.close(None)
