"""What the commands on files have in common: reading them, time zones, instants, and JSON that stays as it is."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.proxmox.storage_config import StorageConfig

_LOCAL_TIME = Path("/etc/localtime")

F = TypeVar("F", bound=Callable[..., Any])


class Zone(click.ParamType[tzinfo]):
    """A time zone by name; without one, the machine's own."""

    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tzinfo:
        """Read a zone's name."""
        if isinstance(value, tzinfo):
            return value
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fail(f"{value!r} is no time zone; write for example Europe/Berlin or UTC", param, ctx)


class Instant(click.ParamType[datetime]):
    """An instant in RFC 3339, or in seconds since 1970. Without an offset it is read in the command's zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read an instant."""
        if isinstance(value, datetime):
            return value
        try:
            return instant(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def instant(text: str) -> datetime:
    """Read an instant; raises ValueError."""
    try:
        if re.fullmatch(r"[0-9]+", text):
            return datetime.fromtimestamp(int(text), UTC)
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time; write for example 2026-01-31T22:00:00+01:00") from None


def within(moment: datetime, zone: tzinfo) -> datetime:
    """Return an aware instant: one without an offset is a reading of the zone's clock."""
    return moment.replace(tzinfo=zone) if moment.tzinfo is None else moment


def machine_zone() -> tzinfo:
    """Return the machine's time zone, with its rules: TZ, else /etc/localtime, else UTC."""
    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with _LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


zone_option = click.option("--tz", "zone", type=Zone(), default=machine_zone, help="Time zone; the machine's own.")
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the result."
)


def file_option(name: str, what: str, required: bool = False) -> Callable[[F], F]:
    """Return an option that names a file to read."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option(name, type=path, required=required, help=f"Path of {what}.")


def read(path: Path) -> bytes:
    """Return a file's bytes; Failed if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from None


def read_storages(path: Path) -> StorageConfig:
    """Read a storage.cfg; Failed if the file cannot be read."""
    return StorageConfig.parse(read(path))


def echo_json(value: Any) -> None:
    """Print a result as JSON; bytes of a file that are no UTF-8 come out as U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    click.echo(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
