"""Which of several dated things to keep, as a rule: Proxmox's prune-backups counts, or the short form `36h/5d/2m`."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Rule = Literal["all", "last", "hourly", "daily", "weekly", "monthly", "yearly"]

_COUNTED: tuple[Rule, ...] = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SHORT: dict[str, Rule] = {"h": "hourly", "d": "daily", "w": "weekly", "m": "monthly", "y": "yearly"}
_BOOLEANS = {"1": True, "on": True, "yes": True, "true": True, "0": False, "off": False, "no": False, "false": False}
_LARGEST = 2**53


class RetentionError(ValueError):
    """A text that is no retention rule."""


class Keep(BaseModel):
    """How many periods of each length keep an item; 0 switches a rule off."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    last: int = Field(default=0, ge=0)
    """The newest ones, whenever they were made."""
    hourly: int = Field(default=0, ge=0)
    """Hours of which the newest is kept."""
    daily: int = Field(default=0, ge=0)
    """Days of which the newest is kept."""
    weekly: int = Field(default=0, ge=0)
    """ISO weeks of which the newest is kept."""
    monthly: int = Field(default=0, ge=0)
    """Months of which the newest is kept."""
    yearly: int = Field(default=0, ge=0)
    """Years of which the newest is kept."""
    all: bool = False
    """Everything is kept."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Counts by rule, or a text for `parse`."""
        return {"anyOf": [handler(core), {"type": "string", "description": "`last=3,daily=7` or `36h/5d/2m`"}]}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {k: getattr(cls.parse(value), k) for k in cls.model_fields} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _all_stands_alone(self) -> "Keep":
        if self.all and self.counts():
            raise ValueError("'all' cannot be combined with counts: remove one of them")
        return self

    def __str__(self) -> str:
        """As `parse` reads it."""
        return "all=1" if self.all else ",".join(f"{rule}={count}" for rule, count in self.counts().items())

    def counts(self) -> dict[Rule, int]:
        """Return the rules that are switched on, in the order in which they act."""
        return {rule: count for rule in _COUNTED if (count := getattr(self, rule)) > 0}

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read `keep-last=3,keep-daily=7` (`keep-` may be left out), or the short form `36h/5d/2m`.

        The short form means hourly=36, daily=5, monthly=2: counts, never minutes or ages. An empty text keeps all,
        as in Proxmox. Raises RetentionError.
        """
        pairs = _short_pairs(text) if re.match(r"[0-9]", text) else _long_pairs(text)
        values: dict[str, int | bool] = {}
        for rule, value in pairs:
            if rule in values:
                raise RetentionError(f"retention {text!r} gives {rule!r} twice")
            values[rule] = _value(text, rule, value)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RetentionError(f"retention {text!r}: {reason}") from None


def _long_pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, text.split(",")):
        rule, equals, value = part.partition("=")
        rule = rule.removeprefix("keep-")
        if not equals or rule not in Keep.model_fields:
            raise RetentionError(
                f"retention {text!r}: {part!r} is no rule; write for example 'last=3,daily=7', "
                "with last, hourly, daily, weekly, monthly, yearly, all"
            )
        pairs.append((rule, value))
    return pairs


def _short_pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in text.split("/"):
        match = re.fullmatch(r"([0-9]+)([hdwmy])", part)
        if match is None:
            raise RetentionError(
                f"retention {text!r}: {part!r} is no count with h, d, w, m or y; write for example '36h/5d/2m'"
            )
        pairs.append((_SHORT[match[2]], match[1]))
    return pairs


def _value(text: str, rule: str, value: str) -> int | bool:
    if rule == "all":
        if value.lower() not in _BOOLEANS:
            raise RetentionError(f"retention {text!r}: 'all' takes 0 or 1, not {value!r}")
        return _BOOLEANS[value.lower()]
    if not re.fullmatch(r"\+?[0-9]{1,16}", value) or int(value) > _LARGEST:
        raise RetentionError(f"retention {text!r}: {rule!r} takes a count, not {value!r}")
    return int(value)
