"""A real mosquitto for tests, which can be killed, frozen and started again; and who listens to it."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiomqtt
from holdfast.agent.mqtt.publisher import Client
from holdfast.coordinator.store.tls import Tls
from integration.etcd_cluster import free_port

USER, PASSWORD = "agents", "open sesame"


class Broker:
    """One broker that remembers nothing over its death. With `tls` it wants a client's certificate and password."""

    def __init__(self, folder: Path, tls: Tls | None = None) -> None:
        self.port = free_port()
        self._tls = tls
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", "user root", "persistence false", "max_queued_messages 0"]
        if tls:
            passwords = folder / "passwords"
            passwords.touch(mode=0o600)
            subprocess.run(["mosquitto_passwd", "-b", passwords, USER, PASSWORD], check=True, capture_output=True)
            lines += [f"cafile {tls.ca}", f"certfile {tls.certificate}", f"keyfile {tls.key}"]
            lines += ["require_certificate true", "allow_anonymous false", f"password_file {passwords}"]
        else:
            lines += ["allow_anonymous true"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it, and wait until it accepts."""
        with (self._folder / "mosquitto.log").open("ab") as log:
            argv = ["mosquitto", "-c", str(self._folder / "mosquitto.conf")]
            self._child = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto did not start: {(self._folder / 'mosquitto.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill9(self) -> None:
        """As a power cut does."""
        if self._child:
            self._child.kill()
            self._child.wait()
            self._child = None

    def stop(self) -> None:
        """Freeze it (SIGSTOP): the kernel still accepts connections, and nobody answers."""
        assert self._child
        self._child.send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on."""
        assert self._child
        self._child.send_signal(signal.SIGCONT)

    def client(self) -> aiomqtt.Client:
        """For a subscriber."""
        if self._tls is None:
            return Client("127.0.0.1", self.port)
        return Client("127.0.0.1", self.port, username=USER, password=PASSWORD, tls_context=self._tls.context())


@contextlib.contextmanager
def running(broker: Broker) -> Iterator[Broker]:
    """The broker, started; reaped whatever happens."""
    try:
        broker.start()
        yield broker
    finally:
        broker.kill9()


class Subscriber:
    """What it has heard, in order; `retained`: what the broker kept for it, by topic."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.heard: list[aiomqtt.Message] = []

    async def until(self, topic: str, holds: Callable[[bytes], bool] = lambda payload: True) -> aiomqtt.Message:
        """The next message of a topic with such a payload, within a minute; one that was heard before counts too."""
        async with asyncio.timeout(60):
            for message in self.heard:
                if _fits(message, topic, holds):
                    return message
            async for message in self._client.messages:
                self.heard.append(message)
                if _fits(message, topic, holds):
                    return message
        raise AssertionError("the subscription ended")

    def forget(self) -> None:
        """From now on only what is new counts."""
        self.heard.clear()


def _fits(message: aiomqtt.Message, topic: str, holds: Callable[[bytes], bool]) -> bool:
    return str(message.topic) == topic and isinstance(message.payload, bytes) and holds(message.payload)


@contextlib.asynccontextmanager
async def subscribed(broker: Broker, topics: str = "holdfast/#") -> AsyncIterator[Subscriber]:
    """Somebody who subscribes now."""
    async with broker.client() as client:
        await client.subscribe(topics, qos=1)
        yield Subscriber(client)
