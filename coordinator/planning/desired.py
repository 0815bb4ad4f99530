"""Desired state as it is in force. Guards invariant 7: bad input is contained.

Each record is read on its own. One that cannot be read is reported, its last good version stays in force, and nothing
else is touched. Pure: the same records in the same order give the same answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import orjson
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.model.guest import Guest, Mode, Placement
from holdfast.coordinator.model.keyspace import DESIRED, record_type
from holdfast.coordinator.model.names import NodeName, PolicyName, RequestId, StoreId, Vmid
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.policy import ProtectionPolicy
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.report import RecordProblem
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.model.snapshot_policy import SnapshotPolicy
from holdfast.coordinator.model.storage import Storage
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

R = TypeVar("R", bound=Record)

_NAMES: dict[str, TypeAdapter[object]] = {
    "storage": TypeAdapter(StoreId),
    "guests": TypeAdapter(Vmid),
    "placements": TypeAdapter(Vmid),
    "nodes": TypeAdapter(NodeName),
    "policies": TypeAdapter(PolicyName),
    "requests": TypeAdapter(RequestId),
}


class BadRecord(ValueError):
    """A record that cannot be read; the message says which field, what it may be, and is fit for `status`."""


def check_name(folder: str, name: str) -> None:
    """Raise BadRecord if a record of this folder cannot bear this name."""
    if folder not in DESIRED:
        raise BadRecord(f"no such kind of record: {folder!r} (known: {', '.join(DESIRED)})")
    by_vmid = folder in ("guests", "placements")
    if by_vmid and not re.fullmatch(r"[1-9][0-9]{0,18}", name):  # one spelling, or 0101 and 101 would be two records
        raise BadRecord(f"{name!r} cannot name one of {folder}: write the VMID as a plain number, e.g. 101")
    try:
        _NAMES[folder].validate_python(int(name) if by_vmid else name)
    except ValidationError as error:
        raise BadRecord(f"{name!r} cannot name one of {folder}: {_say(error.errors()[0])}") from None


def parse(folder: str, name: str, value: bytes | dict[str, object]) -> Record:
    """Read one record (its JSON, or that JSON's object); raise BadRecord with every field that is wrong."""
    check_name(folder, name)
    try:
        data = orjson.loads(value) if isinstance(value, bytes) else value
        return record_type(folder, data).model_validate(data, strict=False)
    except orjson.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error}") from None
    except ValidationError as error:
        raise BadRecord(describe(error)) from None


def describe(error: ValidationError) -> str:
    """All that pydantic found, in a line: `disks.scsi0.size: Input should be …; …`."""
    return "; ".join(
        f"{'.'.join(map(_part, e['loc'])) or 'record'}: {_say(e)}" for e in error.errors(include_url=False)
    )


def _part(part: str | int) -> str:
    return str(part) if re.fullmatch(r"[A-Za-z0-9_\[\]-]+", str(part)) else repr(part)


def _say(error: ErrorDetails) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return f"{str(error['input'])[:80]!r} is not allowed (pattern {error['ctx']['pattern']})"
    return error["msg"].removeprefix("Value error, ")


@dataclass(frozen=True, slots=True)
class Desired:
    """What is in force now."""

    storages: Mapping[str, Storage] = field(default_factory=dict)
    guests: Mapping[int, Guest] = field(default_factory=dict)
    placements: Mapping[int, Placement] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    policies: Mapping[str, ProtectionPolicy] = field(default_factory=dict)
    snapshot_policies: Mapping[str, SnapshotPolicy] = field(default_factory=dict)
    requests: Mapping[str, Request] = field(default_factory=dict)
    age: Mapping[str, int] = field(default_factory=dict)
    """Policy name → create revision: where two policies collide, the older stays in force."""
    problems: tuple[RecordProblem, ...] = ()

    def points_asked_for(self, vmid: int) -> set[PointId]:
        """Points of a guest that requests name: they must not go before those are carried out."""
        return {PointId.parse(r.at) for r in self.requests.values() if r.vmid == vmid and r.at is not None}

    def mode(self, vmid: int) -> Mode:
        """How far Holdfast may go with a guest."""
        placement = self.placements.get(vmid)
        return placement.mode if placement else Mode.REPLICATE


class Records:
    """Takes records as they come and tells what is in force. `last_good` carries it over a restart of the reader."""

    def __init__(self, last_good: Mapping[str, bytes] | None = None) -> None:
        self._last_good = dict(last_good or {})
        self._good: dict[tuple[str, str], Record] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._problems: dict[str, RecordProblem] = {}

    def put(self, path: str, value: bytes, create_revision: int) -> None:
        """A record was written; `path` is its key below `desired/`, such as `guests/101`."""
        folder, _, name = path.partition("/")
        try:
            record = parse(folder, name, value)
        except BadRecord as error:
            self._reject(path, str(error), create_revision)
            return
        self._good[folder, name] = record
        self._revisions[folder, name] = create_revision
        self._last_good[path] = value
        self._problems.pop(path, None)

    def delete(self, path: str) -> None:
        """A record was deleted: its last good version goes with it."""
        folder, _, name = path.partition("/")
        self._good.pop((folder, name), None)
        self._last_good.pop(path, None)
        self._problems.pop(path, None)

    def _reject(self, path: str, reason: str, create_revision: int) -> None:
        folder, _, name = path.partition("/")
        if (folder, name) not in self._good and path in self._last_good:
            try:
                self._good[folder, name] = parse(folder, name, self._last_good[path])
                self._revisions[folder, name] = create_revision
            except BadRecord:  # written by another version of Holdfast
                del self._last_good[path]
        kept = (folder, name) in self._good
        self._problems[path] = RecordProblem(
            key=f"desired/{path}",
            condition=Condition(
                reason="BadRecord",
                message=f"desired/{path} is refused: {reason}. "
                + ("Its last good version stays in force" if kept else "Nothing is in force for it")
                + "; write it again, corrected (holdfast apply -f checks it first).",
            ),
            in_force="previous version" if kept else "nothing",
        )

    @property
    def last_good(self) -> Mapping[str, bytes]:
        """To be kept over a restart."""
        return self._last_good

    def desired(self) -> Desired:
        """What is in force."""
        by_folder: dict[str, dict[str, Record]] = {folder: {} for folder in DESIRED}
        for (folder, name), record in sorted(self._good.items()):
            by_folder[folder][name] = record
        return Desired(
            storages=_only(by_folder["storage"], Storage),
            guests={int(k): v for k, v in _only(by_folder["guests"], Guest).items()},
            placements={int(k): v for k, v in _only(by_folder["placements"], Placement).items()},
            nodes=_only(by_folder["nodes"], Node),
            policies=_only(by_folder["policies"], ProtectionPolicy),
            snapshot_policies=_only(by_folder["policies"], SnapshotPolicy),
            requests=_only(by_folder["requests"], Request),
            age={name: rev for (folder, name), rev in self._revisions.items() if folder == "policies"},
            problems=tuple(self._problems[path] for path in sorted(self._problems)),
        )


def _only(records: dict[str, Record], kind: type[R]) -> dict[str, R]:
    return {name: record for name, record in records.items() if isinstance(record, kind)}
