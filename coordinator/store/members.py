"""etcd's members: one channel to each, one of them preferred until it fails.

A channel per member and not gRPC's own balancing: a stalled member is left on purpose, and one knows whom one asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

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


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the CA that signed etcd's certificates, and the certificate and key to show to it."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; OSError if one cannot be."""
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.certificate.read_bytes() if self.certificate else None,
        )


class Member:
    """One member and the methods called on it."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.endpoint = endpoint
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
        if not endpoints:
            raise ValueError("no etcd endpoint is configured: give at least one as host:port")
        self._endpoints = tuple(endpoints)
        self._credentials = tls.credentials() if tls else None
        self._open: dict[str, Member] = {}
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

    def _member(self, endpoint: str) -> Member:
        if endpoint not in self._open:
            self._open[endpoint] = Member(endpoint, self._credentials)
        return self._open[endpoint]

    async def close(self) -> None:
        """Close all channels; calls in flight on them are cancelled."""
        opened, self._open = self._open, {}
        for member in opened.values():
            await member.channel.close(None)
