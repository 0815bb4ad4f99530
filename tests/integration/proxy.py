"""A TCP proxy in front of one member that can lose what the member answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


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
