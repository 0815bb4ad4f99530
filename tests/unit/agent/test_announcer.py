from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from holdfast.agent.mqtt.announcer import Announcer, notice
from holdfast.agent.mqtt.outbox import Message, Outbox
from holdfast.coordinator.model.announcement import Event, EventKind, GuestAnnouncement, NodeAnnouncement, Topics
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.model.report import AgentReport, GuestReport, PointReport, ReplicaReport, TargetReport

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
KEYS = Keyspace("lab")
NODE, GUEST = KEYS.agent("n1"), KEYS.guest_report("n1", 101)
ME = AgentReport(version="1", started=NOON, seen=NOON).to_json()
DOWN = Condition(reason="TargetUnreachable", message="To n2: no", target="n2", since=NOON)


class Broker:
    """An announcer, and what it puts out."""

    def __init__(self, *desired: int) -> None:
        self.desired = dict.fromkeys(desired)
        self.box = Outbox(notice(Topics("lab"), "n1", lambda: NOON))
        view: Any = SimpleNamespace(desired=SimpleNamespace(guests=self.desired))
        self.announcer = Announcer("n1", KEYS, view, self.box, lambda: NOON)
        self.order: list[str] = []
        self.states: dict[str, bytes] = {}
        self.events: list[Event] = []

    def told(self, said: dict[str, bytes], before: dict[str, bytes] | None = None) -> list[EventKind]:
        """The kinds of events that follow."""
        self.announcer.announce(before or {}, said)
        self.events = []
        while (message := self.box._first()) is not None:
            self._take(message)
            self.box.said(message)
        return [event.kind for event in self.events]

    def _take(self, message: Message) -> None:
        self.order.append(message.topic)
        if message.retain:
            self.states[message.topic] = message.payload
        else:
            event = Event.model_validate_json(message.payload)
            assert message.topic == Topics("lab").event(event)
            self.events.append(event)


@pytest.fixture
def broker() -> Broker:
    return Broker(101)


def guest(*conditions: Condition, epoch: int = 1, sequence: int = 1) -> bytes:
    last = PointReport(
        epoch=epoch, sequence=sequence, instant=NOON, consistency=Consistency.ATOMIC, disks=1, size=1 << 30
    )
    targets = (TargetReport(node="n2", policy="gold", last=last),)
    return GuestReport(epoch=epoch, targets=targets, conditions=conditions).to_json()


def test_states_have_the_words_of_the_reports_and_the_node_comes_first(broker: Broker) -> None:
    broker.told({GUEST: guest(DOWN), NODE: ME})
    assert broker.order[:2] == ["holdfast/lab/nodes/n1", "holdfast/lab/guests/101"]
    said = orjson.loads(broker.states["holdfast/lab/guests/101"])
    assert said == {**orjson.loads(guest(DOWN)), "vmid": 101, "node": "n1"}
    GuestAnnouncement.model_validate(said)
    said = orjson.loads(broker.states["holdfast/lab/nodes/n1"])
    assert said == {**orjson.loads(ME), "node": "n1", "online": True}


def test_the_last_words_are_that_it_is_offline(broker: Broker) -> None:
    broker.told({NODE: ME})
    words = broker.box.last_words
    assert words is not None
    assert (words.topic, words.retain) == ("holdfast/lab/nodes/n1", True)
    assert NodeAnnouncement.model_validate_json(words.payload).online is False


def test_what_changes_is_an_event_and_what_stays_is_none(broker: Broker) -> None:
    committed, raised, cleared = EventKind.POINT_COMMITTED, EventKind.CONDITION_RAISED, EventKind.CONDITION_CLEARED
    assert broker.told({NODE: ME, GUEST: guest()}) == [EventKind.OWNED, committed]
    assert broker.told({NODE: ME, GUEST: guest()}) == []
    assert broker.told({NODE: ME, GUEST: guest(sequence=2)}) == [committed]
    point = broker.events[0].point
    assert point is not None
    assert (broker.events[0].target, point.sequence) == ("n2", 2)
    assert broker.told({NODE: ME, GUEST: guest(DOWN, sequence=2)}) == [raised]
    assert broker.events[0].condition == DOWN
    reworded = DOWN.model_copy(update={"message": "To n2: still no"})
    assert broker.told({NODE: ME, GUEST: guest(reworded, sequence=2)}) == []
    assert b"still no" in broker.states["holdfast/lab/guests/101"]
    assert broker.told({NODE: ME, GUEST: guest(sequence=2)}) == [cleared]
    assert broker.told({NODE: ME, GUEST: guest(epoch=3)}) == [EventKind.OWNED, committed]


def test_the_nodes_own_conditions_are_events_of_the_node(broker: Broker) -> None:
    broker.told({NODE: ME})
    trouble = Condition(reason="CertificateExpires", message="soon")
    ill = AgentReport(version="1", started=NOON, seen=NOON, conditions=(trouble,)).to_json()
    assert broker.told({NODE: ill}) == [EventKind.CONDITION_RAISED]
    assert broker.events[0].vmid is None


def test_after_a_restart_states_are_said_again_but_nothing_has_happened(broker: Broker) -> None:
    assert broker.told({NODE: ME, GUEST: guest(DOWN)}, before={NODE: ME, GUEST: guest(DOWN)}) == []
    assert set(broker.states) == {"holdfast/lab/nodes/n1", "holdfast/lab/guests/101"}


def test_what_an_earlier_life_said_of_a_guest_that_is_gone_is_taken_back(broker: Broker) -> None:
    gone = KEYS.guest_report("n1", 102)
    assert broker.told({NODE: ME}, before={gone: guest(epoch=4)}) == [EventKind.RELEASED]
    assert (broker.events[0].vmid, broker.events[0].epoch) == (102, 4)
    assert broker.states["holdfast/lab/guests/102"] == b""


def test_of_a_guest_that_another_node_owns_now_nothing_more_is_said(broker: Broker) -> None:
    broker.told({NODE: ME, GUEST: guest()})
    broker.states.clear()
    assert broker.told({NODE: ME}) == [EventKind.RELEASED]
    broker.box.again()
    broker.told({NODE: ME})
    assert set(broker.states) == {"holdfast/lab/nodes/n1"}


def test_a_report_of_another_version_stops_nothing(broker: Broker) -> None:
    before = {GUEST: b'{"colour": "red"}', KEYS.guest_report("n1", 102): b"{"}
    assert EventKind.OWNED in broker.told({NODE: ME, GUEST: guest()}, before)


def test_replicas_are_not_announced(broker: Broker) -> None:
    broker.told({NODE: ME, KEYS.replica_report("n1", 105): ReplicaReport().to_json()})
    assert set(broker.states) == {"holdfast/lab/nodes/n1"}
