"""Reads the documents that people apply: YAML or JSON, `kind`, `name`, `spec`. Each is read on its own.

YAML is read with the types of its version 1.2 (and of JSON): 1.1 would make a boolean of `on`, and of the schedule
`22:30` the number 1350.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from holdfast.coordinator.cli.kinds import BY_NAME, Kind
from holdfast.coordinator.planning.desired import BadRecord, check_name

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml: the same, slower
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

FIELDS = ("kind", "name", "spec")


@dataclass(frozen=True, slots=True)
class Document:
    """One document; its spec is not read yet."""

    where: str
    """`FILE:LINE`"""
    kind: Kind
    name: str
    spec: dict[str, object]

    @property
    def label(self) -> str:
        """`policy/all-to-beta`"""
        return f"{self.kind.label}/{self.name}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One document, or the rest of a file, that cannot be read."""

    where: str
    reason: str


class _Loader(_BaseLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's name and type

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML does, but a key given twice is an error: which of the two is meant?"""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, "a key must be plain text")
            if key.value in seen:
                raise _at(key, f"{key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]{0,99})$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]+\.[0-9]+$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def read(text: str, source: str) -> Iterator[Document | Unreadable]:
    """Every document of a text. A list stands for its elements. Nothing is raised: what is wrong is told."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            loaded = json.loads(text, object_pairs_hook=_once)
        except _Twice as error:
            yield Unreadable(f"{source}:1", str(error))
            return
        except (ValueError, RecursionError):
            pass  # YAML's flow style begins alike
        else:
            for value in loaded if isinstance(loaded, list) else [loaded]:
                yield _document(value, f"{source}:1")
            return
    yield from _read_yaml(text, source)


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(f"{key!r} is given twice")
        found[key] = value
    return found


def _read_yaml(text: str, source: str) -> Iterator[Document | Unreadable]:
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # control characters
        yield Unreadable(f"{source}:1", _one_line(error))
        return
    line = 1
    try:
        while loader.check_node() and (root := loader.get_node()) is not None:
            line = root.start_mark.line + 1
            for node in root.value if isinstance(root, yaml.SequenceNode) else [root]:
                yield _construct(loader, node, source)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else line
        yield Unreadable(f"{source}:{line}", f"{_one_line(error)}; the rest of the file was not read")
    except (yaml.YAMLError, RecursionError) as error:
        yield Unreadable(f"{source}:{line}", f"{_one_line(error)}; the rest of the file was not read")
    finally:
        loader.dispose()


def _construct(loader: _Loader, node: yaml.Node, source: str) -> Document | Unreadable:
    where = f"{source}:{node.start_mark.line + 1}"
    try:
        return _document(loader.construct_document(node), where)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        return Unreadable(where, f"{error.problem}{line}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return Unreadable(where, _one_line(error))


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return " ".join(filter(None, (error.context, error.problem)))
    return " ".join(str(error).split()) or "nested too deeply"


def _document(value: object, where: str) -> Document | Unreadable:
    if not isinstance(value, dict):
        return Unreadable(where, "a document is a mapping with kind, name and spec")
    if unknown := [key for key in value if key not in FIELDS]:
        return Unreadable(where, f"unknown field {', '.join(map(repr, unknown))} (a document has kind, name and spec)")
    if missing := [key for key in FIELDS if key not in value]:
        return Unreadable(where, f"{' and '.join(missing)} missing (a document has kind, name and spec)")
    kind, name, spec = value["kind"], value["name"], value["spec"]
    if not isinstance(kind, str) or kind not in BY_NAME:
        return Unreadable(where, f"kind {kind!r} is not known (known: {', '.join(BY_NAME)})")
    if isinstance(name, bool) or not isinstance(name, str | int):
        return Unreadable(where, f"name {name!r} must be text or a VMID")
    if not isinstance(spec, dict):
        return Unreadable(where, "spec must be a mapping")
    try:
        check_name(BY_NAME[kind].folder, str(name))
    except BadRecord as error:
        return Unreadable(where, str(error))
    return Document(where, BY_NAME[kind], str(name), spec)


def dump(documents: Iterable[tuple[Kind, str, dict[str, object]]]) -> str:
    """Documents as YAML that can be applied again."""
    return "---\n".join(
        yaml.dump(
            {"kind": kind.name, "name": int(name) if kind.by_vmid else name, "spec": spec},
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=120,
        )
        for kind, name, spec in documents
    )


class _Dumper(yaml.SafeDumper):
    pass


# Ends of lines for YAML 1.1 but for \n. PyYAML prints them as they are in plain, single-quoted and block scalars,
# and reads them there as a space or as \n; in double quotes it escapes them.
_OTHER_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Several lines as a block: a guest's definition reads as it is."""
    style = '"' if _OTHER_LINE_ENDS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
