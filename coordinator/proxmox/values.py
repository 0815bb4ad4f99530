"""What a property's value may be: Proxmox's types and formats (PVE::JSONSchema), as functions.

Each takes the text and returns the value, or raises ValueRefused with the reason. Regular expressions are ASCII and
must match the whole value, as Perl's do on the bytes that Proxmox reads.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

Check = Callable[[str], Any]

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?"
_STORAGE_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]")
_VOLUME_ID = re.compile(r"([A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]):([^\n]+)")
_NODE = re.compile(_NAME)
_DNS_NAME = re.compile(rf"(?:{_NAME}\.)*{_NAME}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.[0-9]+|[0-9]+\.|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?")
_SIZE = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,30}))?([KMGT])?")
_LIST_SEPARATOR = re.compile(r"[\s,;]+", re.ASCII)
_LONGEST_NUMBER = 100


class ValueRefused(ValueError):
    """A value that Proxmox would not take; the message says why."""


def split_list(text: str) -> list[str]:
    """Split at commas, semicolons and white space; a NUL, where there is one, is the only separator."""
    if "\0" in text:
        return text.rstrip("\0").split("\0")
    return [part for part in _LIST_SEPARATOR.split(text) if part]


def boolean(text: str) -> bool:
    """Only `1` and `0`: the section files know no yes and no."""
    if text not in ("0", "1"):
        raise ValueRefused(f"{text!r} is neither 0 nor 1")
    return text == "1"


def loose_boolean(text: str) -> bool | None:
    """Read `1 on yes true` or `0 off no false`, in any case, as property strings do; None for anything else."""
    word = text.lower()
    return True if word in ("1", "on", "yes", "true") else False if word in ("0", "off", "no", "false") else None


def integer(smallest: int | None = None, largest: int | None = None) -> Check:
    """Return a check for whole numbers within bounds."""

    def check(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text) or len(text) > _LONGEST_NUMBER:
            raise ValueRefused(f"{text[:40]!r} is no whole number")
        number = int(text)
        if smallest is not None and number < smallest:
            raise ValueRefused(f"{number} is less than {smallest}")
        if largest is not None and number > largest:
            raise ValueRefused(f"{number} is more than {largest}")
        return number

    return check


def number(text: str) -> float:
    """Read a decimal number; whole ones come back as int."""
    if not _NUMBER.fullmatch(text) or len(text) > _LONGEST_NUMBER:
        raise ValueRefused(f"{text[:40]!r} is no number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueRefused(f"{text[:40]!r} is too large")
    return int(value) if value == int(value) else value


def positive_number(text: str) -> float:
    """Read a number that is not negative."""
    value = number(text)
    if value < 0:
        raise ValueRefused(f"{text} is negative")
    return value


def text(value: str) -> str:
    """Take anything."""
    return value


def one_of(*choices: str) -> Check:
    """Return a check for one of a few words."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueRefused(f"{value!r} is none of {', '.join(choices)}")
        return value

    return check


def at_most(length: int) -> Check:
    """Return a check for texts of limited length."""

    def check(value: str) -> str:
        if len(value) > length:
            raise ValueRefused(f"it is longer than {length} characters")
        return value

    return check


def matching(pattern: str, what: str) -> Check:
    """Return a check for texts that match a regular expression as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueRefused(f"{value!r} is no {what}")
        return value

    return check


def each(check: Check) -> Check:
    """Return a check that applies `check` to every item of a list; the text comes back as it is."""

    def check_all(value: str) -> str:
        for item in split_list(value):
            check(item)
        return value

    return check_all


def storage_id(value: str) -> str:
    """Two or more characters, a letter first, a letter or digit last, `-_.` between."""
    if not _STORAGE_ID.fullmatch(value):
        raise ValueRefused(f"storage ID {value!r} contains illegal characters")
    return value


def volume_id(value: str) -> tuple[str, str]:
    """Split `STOREID:volname`."""
    match = _VOLUME_ID.fullmatch(value)
    if match is None:
        raise ValueRefused(f"{value!r} is no volume ID")
    return match[1], match[2]


def node(value: str) -> str:
    """Check a node's name."""
    if not _NODE.fullmatch(value):
        raise ValueRefused(f"{value!r} is no node name")
    return value


def server(value: str) -> str:
    """Check an IP address or DNS name."""
    if not (is_ip(value) or _DNS_NAME.fullmatch(value)):
        raise ValueRefused(f"{value!r} is no server name or IP address")
    return value


def is_ip(value: str, version: int | None = None) -> bool:
    """Whether the text is an IP address, of a version if given, and without a zone (`%eth0`)."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value and version in (None, address.version)


def portal(value: str) -> str:
    """Check a host with an optional port: `host[:port]`, `[host][:port]` or `IPv6[.port]`."""
    if re.fullmatch(r"[A-Za-z0-9\-.]+(:[0-9]+)?", value):
        return value
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](:[0-9]+)?", value)
    if bracketed and (re.fullmatch(r"[A-Za-z0-9\-.]+", bracketed[1]) or is_ip(bracketed[1], 6)):
        return value
    if is_ip(value, 6) or is_ip(re.sub(r"\.[0-9]+$", "", value), 6):
        return value
    raise ValueRefused(f"{value!r} is no portal (host[:port])")


def path(value: str) -> str:
    """Check an absolute path as Proxmox does: it looks at the beginning only."""
    if not re.match(r"/[^;()]", value):
        raise ValueRefused(f"{value!r} is no absolute path")
    return value


def size(value: str) -> int:
    """Return the bytes of a disk size: `32G`, `0.5T`, `4194304`; units are powers of 1,024."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueRefused(f"{value!r} is no size; write for example 32G")
    unit: int = 1024 ** " KMGT".index(match[3] or " ")
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    return (int(match[1]) * scale + int(fraction or 0)) * unit // scale


def format_size(count: int) -> str:
    """Return a size as Proxmox writes it: with the largest unit that divides it."""
    for unit in ("", "K", "M", "G"):
        if count % 1024:
            return f"{count}{unit}"
        count //= 1024
    return f"{count}T"


def property_string(
    value: str,
    keys: dict[str, Check],
    default: str | None = None,
    aliases: dict[str, str] | None = None,
    required: Iterable[str] = (),
) -> dict[str, Any]:
    """Read `key=value,key=value,…`; one part without key belongs to the key `default`.

    `aliases` maps old names of keys to new ones. Raises ValueRefused: unlike a section, a property string is taken or
    refused as a whole.
    """
    raw: dict[str, str] = {}
    defaulted = False
    for part in value.split(","):
        if not part.strip(" \t\n\r\f\v"):
            continue
        key, equals, content = part.partition("=")
        if not equals:
            if default is None:
                raise ValueRefused(f"{part!r} has no key")
            if defaulted or raw.get(default):
                raise ValueRefused(f"{default!r} is given twice")
            defaulted = True
            raw[default] = part
            continue
        if not key or not content:
            raise ValueRefused(f"{part!r} lacks its key or its value")
        if key in raw:
            raise ValueRefused(f"{key!r} is given twice")
        key = (aliases or {}).get(key, key)
        if key not in keys:
            raise ValueRefused(f"{key!r} is not known here")
        raw[key] = content
    for key in required:
        if key not in raw:
            raise ValueRefused(f"{key!r} is missing")
    return {key: _checked(key, content, keys[key]) for key, content in raw.items()}


def _checked(key: str, content: str, check: Check) -> Any:
    if check is boolean and (loose := loose_boolean(content)) is not None:
        return loose
    try:
        return check(content)
    except ValueRefused as error:
        raise ValueRefused(f"{key}: {error}") from None


_RATE = positive_number
_BANDWIDTH: dict[str, Check] = dict.fromkeys(("default", "restore", "migration", "clone", "move"), _RATE)
_KEEP: dict[str, Check] = {"keep-all": boolean} | {
    f"keep-{period}": integer(0) for period in ("last", "hourly", "daily", "weekly", "monthly", "yearly")
}


def bandwidth_limits(value: str) -> dict[str, float]:
    """Read a `bwlimit` property: operation → KiB/s."""
    return property_string(value, _BANDWIDTH)


def prune_backups(value: str) -> str:
    """Check a `prune-backups` property; keep-all excludes counts."""
    keep = property_string(value, _KEEP)
    if keep.pop("keep-all", False) and any(keep.values()):
        raise ValueRefused("keep-all cannot be set together with other options")
    return value


def as_text(check: Callable[[str], Any]) -> Check:
    """Return a check that leaves the text as it is written."""

    def keep(value: str) -> str:
        check(value)
        return value

    return keep
