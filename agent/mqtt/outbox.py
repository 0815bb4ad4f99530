"""What is still to be said to the MQTT broker. Guards that a broker that is away costs neither time nor memory.

1. Putting something in never waits.
2. Of each retained topic only the newest state is kept, as long as it holds: a broker that forgot it gets it again.
3. At most `limit` events wait; the oldest are dropped and counted, and the count is the first event to follow.
4. What was taken out counts as said only once the broker has acknowledged it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

LIMIT = 1000
"""Events that wait for a broker: an hour of a node whose guests all complain once, at some 500 bytes each."""


@dataclass(frozen=True, slots=True)
class Message:
    """`retain`: the broker keeps it for who subscribes later; an empty one makes it forget the topic."""

    topic: str
    payload: bytes
    retain: bool = False


class Outbox:
    """In order: states, the notice of dropped events, events."""

    def __init__(self, notice: Callable[[int], Message], limit: int = LIMIT) -> None:
        """`notice` makes the event that says how many were dropped."""
        self.last_words: Message | None = None
        """What the broker is to say for us when it loses us; nothing is connected to before there is one."""
        self._notice = notice
        self._limit = limit
        self._states: dict[str, Message] = {}
        self._pending: dict[str, None] = {}
        self._events: deque[Message] = deque()
        self._dropped = 0
        self._told: tuple[Message, int] | None = None
        self._filled = asyncio.Event()

    def state(self, topic: str, payload: bytes) -> None:
        """What is so from now on; an empty payload takes it back."""
        before = self._states.get(topic)
        if before is None or before.payload != payload:
            self._states[topic] = Message(topic, payload, retain=True)
            self._pending[topic] = None
            self._filled.set()

    def forget(self, topic: str) -> None:
        """It is no longer ours to say."""
        self._states.pop(topic, None)
        self._pending.pop(topic, None)

    def event(self, topic: str, payload: bytes) -> None:
        """What has happened."""
        if len(self._events) == self._limit:
            self._events.popleft()
            if not self._dropped:
                log.warning("mqtt.events_dropped", kept=self._limit, reason="the broker takes none")
            self._dropped += 1
        self._events.append(Message(topic, payload))
        self._filled.set()

    def again(self) -> None:
        """The broker may have forgotten every state."""
        self._pending = dict.fromkeys(self._states)
        self._filled.set()

    async def next(self) -> Message:
        """Wait for what is to be said next; it stays in until `said`."""
        while (message := self._first()) is None:
            self._filled.clear()
            await self._filled.wait()
        return message

    def _first(self) -> Message | None:
        if self._pending:
            return self._states[next(iter(self._pending))]
        if self._dropped:
            self._told = (self._notice(self._dropped), self._dropped)
            return self._told[0]
        return self._events[0] if self._events else None

    def said(self, message: Message) -> None:
        """The broker has it."""
        if message.retain:
            if self._states.get(message.topic) == message:  # else a newer one has been put in meanwhile
                self._pending.pop(message.topic, None)
                if not message.payload:
                    del self._states[message.topic]
        elif self._told and message is self._told[0]:
            self._dropped -= self._told[1]
            self._told = None
        elif self._events and self._events[0] is message:
            self._events.popleft()
