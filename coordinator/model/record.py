"""What every record of the keyspace has in common: it refuses what it does not know, and never changes in place."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, PlainSerializer


class Record(BaseModel):
    """A value in the keyspace, as JSON. Unknown fields are an error: a typing mistake must not pass for a default.

    The docstring beneath a field is its description in the JSON Schema (`holdfast schema`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, use_attribute_docstrings=True)

    def sparse(self) -> dict[str, object]:
        """As JSON's types, without what is as it would be anyway: what people read and write."""
        return {name: _whole(v) for name, v in self.model_dump(mode="json", exclude_defaults=True).items()}

    def to_json(self) -> bytes:
        """The bytes that the keyspace keeps."""
        return self.model_dump_json(exclude_none=True, exclude_defaults=False).encode()


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _iso(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[AwareDatetime, PlainSerializer(_iso, return_type=str, when_used="json")]
"""A moment of wall-clock time with its zone (RFC 3339)."""
