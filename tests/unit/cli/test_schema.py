from collections.abc import Iterator
from typing import Any

import pytest
from holdfast.coordinator.cli.kinds import ALL
from holdfast.coordinator.cli.schema import of_all, of_kind
from orjson import dumps

SCHEMAS = [of_all(), *(of_kind(kind) for kind in ALL)]


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s["$id"])
def test_every_field_has_a_description(schema: dict[str, Any]) -> None:
    silent = [
        f"{part.get('title')}.{name}"
        for part in parts(schema)
        if isinstance(part.get("properties"), dict) and part.get("type") == "object"
        for name, field in part["properties"].items()
        if not field.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s["$id"])
def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    for part in parts(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_the_identifiers_are_stable() -> None:
    assert [schema["$id"] for schema in SCHEMAS] == [
        "urn:holdfast:schema:1",
        "urn:holdfast:schema:1:node",
        "urn:holdfast:schema:1:storage",
        "urn:holdfast:schema:1:guest",
        "urn:holdfast:schema:1:placement",
        "urn:holdfast:schema:1:policy",
        "urn:holdfast:schema:1:snapshot-policy",
    ]


def test_no_record_takes_a_field_that_it_does_not_know() -> None:
    for name, definition in of_all()["$defs"].items():
        if definition.get("type") == "object":
            assert definition.get("additionalProperties") is False, name


def test_what_holdfast_alone_writes_is_described_too() -> None:
    written = {"Owner", "Lock", "Meta", "Request", "AgentReport", "GuestReport", "ReplicaReport"}
    announced = {"NodeAnnouncement", "GuestAnnouncement", "Event"}
    assert written | announced <= of_all()["$defs"].keys()
    dumps(SCHEMAS)
