"""The OpenAPI 3.1 description of the local API, made from the models of its answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.coordinator import __version__
from holdfast.coordinator.model.answers import Answer
from pydantic.json_schema import models_json_schema


@dataclass(frozen=True, slots=True)
class Described:
    """One path that is answered with a model."""

    path: str
    summary: str
    answer: type[Answer]
    query: tuple[str, ...] = ()
    """Parameters, all of them whole numbers that may be left out."""


def document(paths: Sequence[Described]) -> dict[str, Any]:
    """The description."""
    models = [(each.answer, "serialization") for each in paths]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast-agent", "version": __version__, "description": "Read-only."},
        "paths": {each.path: {"get": _operation(each)} for each in paths},
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(path: Described) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{path.answer.__name__}"}
    refused = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "summary": path.summary,
        "parameters": [{"name": name, "in": "query", "schema": {"type": "integer"}} for name in path.query],
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": schema}}},
            "default": {"description": "Refused, or failed; why.", "content": refused},
        },
    }
