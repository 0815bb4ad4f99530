"""Proxies in front of one member: one loses what the member answers, one answers as a member that has stayed behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from holdfast.proto import etcd_pb2 as pb


class LossyProxy:
    """Forwards to one endpoint. With `lose_replies` set, requests still pass and the answers do not."""

    def __init__(self, target: str) -> None:
        self.lose_replies = False
        self.endpoint = ""
        self._host, _, port = target.partition(":")
        self._port = int(port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                answers = group.create_task(self._pump(there, writer, answers=True))
                await self._pump(reader, here, answers=False)
                answers.cancel()
        except* OSError:
            pass
        finally:
            here.close()
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if answers and self.lose_replies:
                continue
            sink.write(data)
            await sink.drain()


@contextlib.asynccontextmanager
async def lossy_proxy(target: str) -> AsyncIterator[LossyProxy]:
    proxy = LossyProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()


class BehindProxy(grpc.GenericRpcHandler):
    """Passes gRPC on to one member. `at` set: it knows nothing after that revision; `again`: it repeats old events."""

    def __init__(self, target: str) -> None:
        self.at: int | None = None
        self.again = 0
        self.asked: list[str] = []
        self.endpoint = ""
        self._target = target

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method

        async def forward(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
            self.asked.append(path)
            async with grpc.aio.insecure_channel(self._target) as channel:
                async for reply in channel.stream_stream(path)(self._each(requests, self._request(path))):
                    yield self._reply(path)(reply)

        return grpc.stream_stream_rpc_method_handler(forward)

    @staticmethod
    async def _each(messages: AsyncIterator[bytes], change: Callable[[bytes], bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            yield change(message)

    def _request(self, path: str) -> Callable[[bytes], bytes]:
        def change(message: bytes) -> bytes:
            if path.endswith("KV/Range") and self.at is not None:
                asked = pb.RangeRequest.FromString(message)
                asked.revision = self.at
                return asked.SerializeToString()
            if path.endswith("Watch/Watch") and self.again:
                watch = pb.WatchRequest.FromString(message)
                if watch.HasField("create_request"):
                    watch.create_request.start_revision -= self.again
                return watch.SerializeToString()
            return message

        return change

    def _reply(self, path: str) -> Callable[[bytes], bytes]:
        kinds = {"KV/Range": pb.RangeResponse, "Watch/Watch": pb.WatchResponse}
        kind = next((kind for name, kind in kinds.items() if path.endswith(name)), None)

        def change(message: bytes) -> bytes:
            if kind is None or self.at is None:
                return message
            reply = kind.FromString(message)
            reply.header.revision = min(reply.header.revision, self.at)
            if isinstance(reply, pb.WatchResponse):
                del reply.events[:]
            return reply.SerializeToString()

        return change


@contextlib.asynccontextmanager
async def behind_proxy(target: str) -> AsyncIterator[BehindProxy]:
    proxy = BehindProxy(target)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((proxy,))
    proxy.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield proxy
    finally:
        await server.stop(None)
