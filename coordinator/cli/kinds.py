"""Kinds of records as people name them on the command line."""

from dataclasses import dataclass
from typing import Any

import click
import orjson
from click.shell_completion import CompletionItem
from holdfast.coordinator.model.keyspace import KINDS, record_type
from holdfast.coordinator.model.record import Record

_LABELS = {
    "Node": "node",
    "Storage": "storage",
    "Guest": "guest",
    "Placement": "placement",
    "ProtectionPolicy": "policy",
    "SnapshotPolicy": "snapshot-policy",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` stands in documents, `label` in output and arguments, `folder` in keys."""

    name: str
    label: str

    @property
    def folder(self) -> str:
        """Under `desired/`."""
        return KINDS[self.name][0]

    @property
    def by_vmid(self) -> bool:
        """Whether its records are named by the guest's VMID."""
        return self.name in ("Guest", "Placement")

    @property
    def record(self) -> type[Record]:
        """What its records are."""
        return KINDS[self.name][1]

    def tagged(self, spec: dict[str, object]) -> dict[str, object]:
        """A spec as it is stored: where two kinds share a folder, with what tells them apart."""
        return {"kind": self.name, **spec} if "kind" in self.record.model_fields else spec


ALL = tuple(Kind(name, label) for name, label in _LABELS.items())
BY_NAME = {kind.name: kind for kind in ALL}
FOLDERS = frozenset(kind.folder for kind in ALL)


def kind_of(folder: str, value: bytes) -> Kind:
    """The kind of a stored record, readable or not."""
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        data = None
    return next(kind for kind in ALL if kind.folder == folder and kind.record is record_type(folder, data))


def order(name: str) -> tuple[int, str]:
    """VMIDs as numbers, then names."""
    return (int(name), "") if name.isdecimal() and name.isascii() else (-1, name)


class KindArgument(click.ParamType[Kind]):
    """A kind by its label, the name it has in documents, or its folder."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        """The kind, or wrong usage."""
        if isinstance(value, Kind):
            return value
        found = next((k for k in ALL if value.lower() in (k.name.lower(), k.label)), None)
        found = found or next((k for k in ALL if value.lower() == k.folder), None)
        if found:
            return found
        return self.fail(f"{value!r} is no kind of record (known: {', '.join(k.label for k in ALL)})", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The labels."""
        return [CompletionItem(kind.label) for kind in ALL if kind.label.startswith(incomplete)]
