"""Everything of one cluster's keyspace as one reading of it shows it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TypeVar
from zoneinfo import ZoneInfo

from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.report import AgentReport, GuestReport, RecordProblem, ReplicaReport
from holdfast.coordinator.planning.desired import Desired, Records, describe
from holdfast.coordinator.planning.status import Reports, Seen, Status, view
from holdfast.coordinator.store.port import KeyValue, Store
from pydantic import ValidationError

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class State:
    """The keyspace, read."""

    keyspace: Keyspace
    revision: int
    items: Mapping[str, KeyValue]
    desired: Desired
    owners: Mapping[int, Owner]
    reports: Reports
    leader: bool
    unreadable: tuple[RecordProblem, ...] = field(default=())

    def record(self, folder: str, name: str) -> KeyValue | None:
        """One record of desired state as it is written."""
        return self.items.get(self.keyspace.desired(folder, name))

    def status(self, now: datetime | None = None) -> Status:
        """The view that `status` and `explain` show."""
        seen = Seen(self.desired, self.owners, self.reports, now or datetime.now(UTC), zone(), self.leader)
        made = view(seen)
        return Status(made.at, made.guests, made.problems + self.unreadable, made.agents)


def zone() -> tzinfo:
    """Where schedules are read: $TZ, else the machine's zone."""
    name = os.environ.get("TZ") or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    try:
        return ZoneInfo(name or "UTC")
    except (OSError, ValueError):
        return UTC


async def load(store: Store, keyspace: Keyspace) -> State:
    """Read the keyspace, all at one revision."""
    listing = await store.list(keyspace.root)
    return read(keyspace, listing.items, listing.revision)


def read(keyspace: Keyspace, items: Iterable[KeyValue], revision: int) -> State:
    """Sort keys and values into records and reports; what cannot be read is told, never raised."""
    by_key = {item.key: item for item in items}
    records = Records()
    for key, item in by_key.items():
        if key.startswith(keyspace.desired_prefix):
            records.put(key.removeprefix(keyspace.desired_prefix), item.value, item.create_revision)
    reader = _Reader(keyspace)
    owners = {
        int(name): owner
        for key, item in by_key.items()
        if key.startswith(keyspace.owners_prefix)
        and (name := key.removeprefix(keyspace.owners_prefix)).isdecimal()
        and (owner := reader.read(Owner, item))
    }
    reports = reader.reports(by_key)
    return State(
        keyspace,
        revision,
        by_key,
        records.desired(),
        owners,
        reports,
        keyspace.leader in by_key or any(key.startswith(f"{keyspace.leader}/") for key in by_key),
        tuple(reader.problems),
    )


class _Reader:
    """Reads what Holdfast itself writes; a problem here is another version of Holdfast, or somebody else's hand."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.problems: list[RecordProblem] = []
        self._keyspace = keyspace

    def read(self, kind: type[R], item: KeyValue) -> R | None:
        try:
            return kind.model_validate_json(item.value)
        except ValidationError as error:
            key = item.key.removeprefix(self._keyspace.root)
            message = f"{key} cannot be read: {describe(error)}. Compare the versions of holdfast on the nodes."
            condition = Condition(reason="BadReport", message=message)
            self.problems.append(RecordProblem(key=key, condition=condition, in_force="nothing"))
            return None

    def reports(self, items: Mapping[str, KeyValue]) -> Reports:
        agents: dict[str, AgentReport] = {}
        guests: dict[tuple[str, int], GuestReport] = {}
        replicas: dict[tuple[str, int], ReplicaReport] = {}
        for key, item in items.items():
            match key.removeprefix(self._keyspace.root).split("/"):
                case ["agents", node, "self"] if agent := self.read(AgentReport, item):
                    agents[node] = agent
                case ["agents", node, "guests", vmid] if vmid.isdecimal() and (guest := self.read(GuestReport, item)):
                    guests[node, int(vmid)] = guest
                case ["agents", node, "replicas", vmid] if vmid.isdecimal() and (
                    replica := self.read(ReplicaReport, item)
                ):
                    replicas[node, int(vmid)] = replica
        return Reports(agents, guests, replicas)
