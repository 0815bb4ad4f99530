"""The grammar of Proxmox's section files: storage.cfg, replication.cfg, HA resources.cfg and rules.cfg.

Source of the rules: the behaviour of PVE::SectionConfig. A section is a header and the lines up to an empty line; the
file's end ends it too. Comment lines (`#`, also indented) may stand anywhere and end nothing. What the grammar does not
know is ignored with a finding, never an error: Proxmox goes on, so does the reader.

Only the grammar lives here; what a property may be called and hold is the reader's business.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .values import Check, ValueRefused, boolean

# Perl's \s and \S, which know ASCII only here
_COMMENT = re.compile(r"\s*#", re.ASCII)
_PROPERTY = re.compile(r"\s+(\S+)(?:\s+(.*\S))?\s*", re.ASCII | re.DOTALL)
_HEADER = re.compile(r"(\S+):\s*(\S+)\s*", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """Something in a file that Proxmox passes over, or that loses a section; `line` counts from 1."""

    line: int
    message: str


@dataclass(frozen=True)
class Entry:
    """One property line as it stands; `value` is None where only the key is written."""

    line: int
    key: str
    value: str | None


@dataclass(frozen=True)
class Section:
    """One section as it stands in the file: its header and the lines from `line` up to, without, `end`."""

    type: str
    id: str
    line: int
    end: int
    entries: tuple[Entry, ...]
    ignored: tuple[Finding, ...]


@dataclass
class SectionFile:
    """All of a file: its sections in order, and the lines outside of them that mean nothing."""

    lines: list[str]
    sections: list[Section] = field(default_factory=list)
    ignored: list[Finding] = field(default_factory=list)


def decode(data: bytes) -> str:
    """Return the text of a file; bytes that are no UTF-8 survive encode()."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Return the bytes that decode() was given."""
    return text.encode("utf-8", "surrogateescape")


def header(line: str) -> tuple[str, str] | None:
    """Read the usual header, `type: id`; the type is lowercased."""
    match = _HEADER.fullmatch(line)
    return None if match is None else (lower(match[1]), match[2])


def lower(text: str) -> str:
    """Lower the letters that Perl lowers in bytes: A to Z."""
    return decode(encode(text).lower())


def read(text: str, read_header: Callable[[str], tuple[str, str] | None] = header) -> SectionFile:
    """Split a file into its sections."""
    file = SectionFile(text.split("\n"))
    lines = [(n, line) for n, line in enumerate(file.lines, 1) if not _COMMENT.match(line)]
    at = 0
    while at < len(lines):
        number, line = lines[at]
        at += 1
        if _is_empty(line):
            continue
        head = read_header(line)
        if head is None:
            file.ignored.append(Finding(number, f"ignored line: {line}"))
            continue
        entries: list[Entry] = []
        ignored: list[Finding] = []
        end = number + 1
        while at < len(lines) and not _is_empty(lines[at][1]):
            n, line = lines[at]
            at += 1
            end = n + 1
            match = _PROPERTY.fullmatch(line)
            if match is None:
                ignored.append(Finding(n, f"section {head[1]!r}: ignored line: {line}"))
            else:
                entries.append(Entry(n, match[1], match[2]))
        file.sections.append(Section(head[0], head[1], number, end, tuple(entries), tuple(ignored)))
    return file


def take(section: Section, checks: Mapping[str, Check]) -> tuple[dict[str, Any], list[Finding]]:
    """Return the properties of a section that count, and what does not.

    Counts what is known and acceptable, the first of its name; a bare key is a flag that is set.
    """
    taken: dict[str, Any] = {}
    findings = []
    for entry in section.entries:
        if entry.key == "type" and entry.value == section.type:
            continue  # it repeats the header
        try:
            value = _checked(entry, checks)
            if entry.key in taken:
                raise ValueRefused("duplicate attribute")
        except ValueRefused as error:
            message = f"section {section.id!r}: unable to parse value of {entry.key!r}: {error}"
            findings.append(Finding(entry.line, message))
        else:
            taken[entry.key] = value
    return taken, findings


def _checked(entry: Entry, checks: Mapping[str, Check]) -> Any:
    check = checks.get(entry.key)
    if check is None:
        raise ValueRefused("unexpected property")
    if entry.value is None:
        if check is not boolean:
            raise ValueRefused("got no value")
        return True
    if "\r" in entry.value:
        raise ValueRefused("property contains a line feed")
    return check(entry.value)


def _is_empty(line: str) -> bool:
    # Perl takes "0" for false as it takes "" for false, so a line of just 0 ends a section too
    return line in ("", "0")
