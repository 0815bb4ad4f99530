"""Turns an agent's reports into MQTT messages: each report is a state, and what changed in it are events."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from holdfast.agent.mqtt.outbox import Message, Outbox
from holdfast.agent.view import View
from holdfast.coordinator.model.announcement import Event, EventKind, GuestAnnouncement, NodeAnnouncement, Topics
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.report import AgentReport, GuestReport
from pydantic import ValidationError

R = TypeVar("R", bound=Record)


def notice(topics: Topics, node: str, now: Callable[[], datetime]) -> Callable[[int], Message]:
    """Makes the event that says how many were dropped."""

    def make(dropped: int) -> Message:
        event = Event(kind=EventKind.EVENTS_DROPPED, at=now(), node=node, dropped=dropped)
        return Message(topics.event(event), event.to_json())

    return make


class Announcer:
    """The agent of `node` writes reports; this puts the same words into the outbox."""

    def __init__(self, node: str, keys: Keyspace, view: View, outbox: Outbox, now: Callable[[], datetime]) -> None:
        self._node = node
        self._self = keys.agent(node)
        self._guests = keys.guest_report_prefix(node)
        self._topics = Topics(keys.cluster)
        self._view = view
        self._outbox = outbox
        self._now = now
        self._told: dict[str, bytes] | None = None

    def announce(self, before: Mapping[str, bytes], said: Mapping[str, bytes]) -> None:
        """`said`: key → report. `before`: likewise, as an earlier life of this agent left it in etcd; never waits."""
        told = self._told
        known = before if told is None else told
        ours = {key: value for key, value in said.items() if key == self._self or key.startswith(self._guests)}
        # the node first: a subscriber then knows who speaks
        for key, value in sorted(ours.items(), key=lambda each: each[0] != self._self):
            if told is None or told.get(key) != value:
                self._state(key, value)
            if known.get(key) != value:
                self._events(key, known.get(key), value)
        for key in known.keys() - ours.keys():
            if key.startswith(self._guests):
                self._gone(key, known[key])
        self._told = ours

    def _state(self, key: str, value: bytes) -> None:
        if key == self._self:
            report = AgentReport.model_validate_json(value)
            topic = self._topics.node(self._node)
            online = NodeAnnouncement(node=self._node, online=True, **dict(report))
            offline = NodeAnnouncement(
                node=self._node, online=False, version=report.version, started=report.started, seen=report.seen
            )
            self._outbox.last_words = Message(topic, offline.to_json(), retain=True)
            self._outbox.state(topic, online.to_json())
        else:
            vmid = self._vmid(key)
            state = GuestAnnouncement(vmid=vmid, node=self._node, **dict(GuestReport.model_validate_json(value)))
            self._outbox.state(self._topics.guest(vmid), state.to_json())

    def _gone(self, key: str, value: bytes) -> None:
        """The guest is another node's now, which speaks for it; or there is no such guest any more."""
        vmid = self._vmid(key)
        topic = self._topics.guest(vmid)
        if vmid in self._view.desired.guests:
            self._outbox.forget(topic)
        else:
            self._outbox.state(topic, b"")
        report = _read(GuestReport, value)
        self._happened(EventKind.RELEASED, vmid=vmid, epoch=report.epoch if report else None)

    def _events(self, key: str, old: bytes | None, new: bytes) -> None:
        if key == self._self:
            self._conditions(_read(AgentReport, old), AgentReport.model_validate_json(new))
        else:
            self._of_guest(self._vmid(key), _read(GuestReport, old), GuestReport.model_validate_json(new))

    def _of_guest(self, vmid: int, old: GuestReport | None, new: GuestReport) -> None:
        if old is None or old.epoch != new.epoch:
            self._happened(EventKind.OWNED, vmid=vmid, epoch=new.epoch)
        last = {target.node: target.last for target in old.targets} if old else {}
        for target in new.targets:
            if target.last and target.last != last.get(target.node):
                self._happened(EventKind.POINT_COMMITTED, vmid=vmid, target=target.node, point=target.last)
        self._conditions(old, new, vmid=vmid)

    def _conditions(self, old: AgentReport | GuestReport | None, new: AgentReport | GuestReport, **of: int) -> None:
        """One whose words alone have changed is the same one."""
        before = {(c.reason, c.target): c for c in (old.conditions if old else ())}
        now = {(c.reason, c.target): c for c in new.conditions}
        for each, condition in now.items():
            if each not in before:
                self._happened(EventKind.CONDITION_RAISED, condition=condition, **of)
        for each, condition in before.items():
            if each not in now:
                self._happened(EventKind.CONDITION_CLEARED, condition=condition, **of)

    def _happened(self, kind: EventKind, **more: Any) -> None:
        event = Event(kind=kind, at=self._now(), node=self._node, **more)
        self._outbox.event(self._topics.event(event), event.to_json())

    def _vmid(self, key: str) -> int:
        return int(key.removeprefix(self._guests))


def _read(kind: type[R], value: bytes | None) -> R | None:
    """None for what another version wrote."""
    try:
        return kind.model_validate_json(value) if value is not None else None
    except ValidationError:
        return None
