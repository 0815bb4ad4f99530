"""The connection to the MQTT broker, kept up beside everything else: what it cannot say now waits in the outbox.

It runs in a task of its own, and nothing waits for it: neither for a broker that is away nor for one that hangs.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NoReturn

import aiomqtt
import structlog
from holdfast.agent.mqtt.outbox import Outbox
from holdfast.agent.mqtt.settings import MqttSettings
from holdfast.agent.ports import Host
from holdfast.coordinator.grouped import TaskGroup, first
from holdfast.coordinator.model.condition import Condition

log = structlog.get_logger()

BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between tries; the last repeats."""
KEEP_ALIVE = 10
"""Seconds; the broker gives a silent client up after half as long again (MQTT 3.1.1, 3.1.2.10)."""
_ANSWER = 5.0
"""Seconds for any answer of the broker."""
_AT_LEAST_ONCE = 1
_WORDS = {
    "Operation timed out": f"no answer within {_ANSWER:g} s. Its log may say why, such as that it wants a certificate",
    "Disconnected during message iteration": "it ended the connection",
}
"""aiomqtt's, in ours."""


class Client(aiomqtt.Client):
    """aiomqtt 2.5 has a socket watched one step of the loop later, when the farewell may have closed it already.

    Its number is then nobody's, or that of somebody else's socket.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._thread = threading.get_ident()

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        if threading.get_ident() != self._thread:  # while it connects, which aiomqtt does in another one
            super()._on_socket_register_write(client, userdata, sock)
            return

        def writable() -> None:
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        self._loop.add_writer(sock.fileno(), writable)


class Publisher:
    """Says what is in the outbox; connects again whenever the connection is lost."""

    def __init__(self, settings: MqttSettings, identifier: str, outbox: Outbox, host: Host) -> None:
        """`identifier`: the client's at the broker; of two connections with the same one the newer stays."""
        self.outbox = outbox
        self._settings = settings
        self._identifier = identifier
        self._host = host
        self._failures = 0
        self._trouble = ""

    def conditions(self, _: datetime) -> tuple[Condition, ...]:
        """That the broker does not take what is said, where it is so."""
        if not self._trouble:
            return ()
        host, port = self._settings.at
        message = (
            f"The MQTT broker {host}:{port} is told nothing: {self._trouble}. Guests are replicated all the same. "
            "Look at the broker, and at `mqtt` in agent.yaml"
        )
        return (Condition(reason="BrokerUnreachable", message=message),)

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong here stays here."""
        while True:
            try:
                await self._connected()
            except Exception as error:
                self._failed(first(error))
            self.outbox.again()
            await asyncio.sleep(BACK_OFF[min(self._failures, len(BACK_OFF)) - 1])

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        said = _WORDS.get(str(error), str(error) or type(error).__name__)
        if said != self._trouble:
            known = isinstance(error, aiomqtt.MqttError | OSError | UnicodeDecodeError)
            log.warning("mqtt.lost", broker=self._settings.at, reason=said, exc_info=None if known else error)
        self._trouble = said

    async def _connected(self) -> NoReturn:
        await self.outbox.next()
        # read anew each time, so that replaced ones count; off the loop, for they are files
        context = await self._host.blocking(self._settings.context)
        password = await self._host.blocking(self._settings.password)
        async with self._connection(context, password) as client:
            log.info("mqtt.connected", broker=self._settings.at)
            try:
                async with TaskGroup() as group:
                    group.create_task(_until_lost(client))
                    await self._say(client)
            except asyncio.CancelledError:
                await self._last_words(client)
                raise
        raise AssertionError("a connection ends by an error only")

    @contextlib.asynccontextmanager
    async def _connection(self, context: ssl.SSLContext | None, password: str | None) -> AsyncIterator[aiomqtt.Client]:
        host, port = self._settings.at
        will = self.outbox.last_words
        client = Client(
            host,
            port,
            username=self._settings.user,
            password=password,
            identifier=self._identifier,
            tls_context=context,
            keepalive=KEEP_ALIVE,
            timeout=_ANSWER,
            will=aiomqtt.Will(will.topic, will.payload, _AT_LEAST_ONCE, retain=True) if will else None,
        )
        await client.__aenter__()
        try:
            yield client
        finally:
            # it waits for the broker's goodbye; that none comes must not hide why we leave
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)

    async def _say(self, client: aiomqtt.Client) -> NoReturn:
        task = asyncio.current_task()
        while True:
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # aiomqtt's wait_for may have lost it (Python 3.11, bpo-42130)
            message = await self.outbox.next()
            await client.publish(message.topic, message.payload, qos=_AT_LEAST_ONCE, retain=message.retain)
            self.outbox.said(message)
            self._failures, self._trouble = 0, ""

    async def _last_words(self, client: aiomqtt.Client) -> None:
        """An orderly end: the broker drops the will of who says goodbye."""
        if (words := self.outbox.last_words) is not None:
            with contextlib.suppress(aiomqtt.MqttError):
                await client.publish(words.topic, words.payload, qos=_AT_LEAST_ONCE, retain=True, timeout=1.0)


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raises MqttError when the connection is lost; nothing is subscribed to, so nothing arrives."""
    async for message in client.messages:
        log.warning("mqtt.unexpected", topic=str(message.topic))
