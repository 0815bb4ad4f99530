"""`schema`: the JSON Schema of everything in the keyspace, of the documents that people apply, of MQTT's payloads."""

from typing import Any

import click
import orjson
from holdfast.coordinator.cli.kinds import ALL, Kind, KindArgument
from holdfast.coordinator.model.announcement import Event, GuestAnnouncement, NodeAnnouncement
from holdfast.coordinator.model.lock import Lock
from holdfast.coordinator.model.names import NodeName, PolicyName, StoreId, Vmid
from holdfast.coordinator.model.owner import Meta, Owner
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.model.report import AgentReport, GuestReport, ReplicaReport
from holdfast.coordinator.model.request import Request
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ID = "urn:holdfast:schema:1"
_NAMES: dict[str, Any] = {
    "Node": NodeName,
    "Storage": StoreId,
    "Guest": Vmid,
    "Placement": Vmid,
    "ProtectionPolicy": PolicyName,
    "SnapshotPolicy": PolicyName,
}
_WRITTEN: tuple[type[Record], ...] = (Request, Owner, Lock, Meta, AgentReport, GuestReport, ReplicaReport)
_ANNOUNCED: tuple[type[Record], ...] = (NodeAnnouncement, GuestAnnouncement, Event)
"""Payloads of MQTT."""


@click.command()
@click.argument("kind", type=KindArgument(), required=False)
def schema(kind: Kind | None) -> None:
    """Print the JSON Schema of documents: of one KIND, or of all, with every other record beside them ($defs)."""
    click.echo(orjson.dumps(of_kind(kind) if kind else of_all(), option=orjson.OPT_INDENT_2).decode())


def of_kind(kind: Kind) -> dict[str, Any]:
    """The schema of one kind's documents."""
    definitions = _definitions(kind.record)
    return {"$schema": _DIALECT, "$id": f"{_ID}:{kind.label}", **_document(kind), "$defs": definitions}


def of_all() -> dict[str, Any]:
    """The schema of any document; `$defs` also has what only Holdfast writes, and the payloads of MQTT."""
    return {
        "$schema": _DIALECT,
        "$id": _ID,
        "title": "Holdfast",
        "description": "A document of desired state, as holdfast apply reads it.",
        "oneOf": [_document(kind) for kind in ALL],
        "$defs": _definitions(*(kind.record for kind in ALL), *_WRITTEN, *_ANNOUNCED),
    }


def _definitions(*records: type[Record]) -> dict[str, Any]:
    _, made = models_json_schema([(record, "validation") for record in records], ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = made["$defs"]
    return definitions


def _document(kind: Kind) -> dict[str, Any]:
    name = TypeAdapter(_NAMES[kind.name]).json_schema()
    return {
        "type": "object",
        "title": f"{kind.name} document",
        "properties": {
            "kind": {"const": kind.name, "description": "What the document describes."},
            "name": {**name, "description": "The VMID." if kind.by_vmid else f"The name of the {kind.label}."},
            "spec": {"$ref": f"#/$defs/{kind.record.__name__}", "description": "The record itself."},
        },
        "required": ["kind", "name", "spec"],
        "additionalProperties": False,
    }
