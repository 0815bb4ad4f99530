"""Proxmox HA: resources.cfg and rules.cfg, read for importing placements.

Source of the rules: the behaviour of pve-ha-manager (rules.cfg exists since PVE 9).
"""

import re
from dataclasses import dataclass, field

from . import sections, values
from .sections import Finding
from .values import Check, ValueRefused


@dataclass(frozen=True)
class Resource:
    """One guest under HA; `state` is what is asked for."""

    vmid: int
    type: str  # vm or ct
    line: int
    state: str = "started"
    group: str | None = None
    max_restart: int = 1
    max_relocate: int = 1
    failback: bool = True
    comment: str | None = None


@dataclass(frozen=True)
class NodeAffinity:
    """Guests that shall run on certain nodes, the higher priority first; strictly: on no other."""

    id: str
    vmids: frozenset[int]
    nodes: dict[str, int]
    strict: bool
    disabled: bool


@dataclass(frozen=True)
class ResourceAffinity:
    """Guests that shall run together, or apart."""

    id: str
    vmids: frozenset[int]
    together: bool
    disabled: bool


@dataclass
class HaConfig:
    """What resources.cfg and rules.cfg say."""

    resources: dict[int, Resource] = field(default_factory=dict)
    node_affinities: dict[str, NodeAffinity] = field(default_factory=dict)
    resource_affinities: dict[str, ResourceAffinity] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)

    @classmethod
    def parse(cls, resources: bytes, rules: bytes = b"") -> "HaConfig":
        """Read both files; what cannot be read is in `warnings` and as if it were not there."""
        config = cls()
        config._read_resources(resources)
        config._read_rules(rules)
        return config

    def _read_resources(self, data: bytes) -> None:
        file = sections.read(sections.decode(data))
        self.warnings.extend(file.ignored)
        for section in file.sections:
            if section.type not in ("vm", "ct") or not re.fullmatch(r"[1-9][0-9]{2,8}", section.id):
                self.warnings.append(Finding(section.line, f"skip section {section.type}:{section.id}: no guest"))
                continue
            self.warnings.extend(section.ignored)
            taken, found = sections.take(section, _RESOURCE)
            self.warnings.extend(found)
            if taken.get("state") == "enabled":  # an old word
                taken["state"] = "started"
            taken.pop("auto-rebalance", None)
            self.resources[int(section.id)] = Resource(int(section.id), section.type, section.line, **taken)

    def _read_rules(self, data: bytes) -> None:
        file = sections.read(sections.decode(data))
        self.warnings.extend(file.ignored)
        for section in file.sections:
            self.warnings.extend(section.ignored)
            taken, found = sections.take(section, _RULES.get(section.type, {}))
            self.warnings.extend(found)
            needed = {"node-affinity": ("resources", "nodes"), "resource-affinity": ("resources", "affinity")}
            if section.type not in needed or not all(key in taken for key in needed[section.type]):
                self.warnings.append(Finding(section.line, f"skip rule {section.id!r}: it is not complete"))
                continue
            disabled = taken.get("disable", False)
            if section.type == "node-affinity":
                self.node_affinities[section.id] = NodeAffinity(
                    section.id, taken["resources"], taken["nodes"], taken.get("strict", False), disabled
                )
            else:
                self.resource_affinities[section.id] = ResourceAffinity(
                    section.id, taken["resources"], taken["affinity"] == "positive", disabled
                )


def _guests(value: str) -> frozenset[int]:
    found = set()
    for resource in values.split_list(value):
        match = re.fullmatch(r"(?:vm|ct):([1-9][0-9]{2,8})", resource)
        if match is None:
            raise ValueRefused(f"{resource!r} is no guest (vm:VMID or ct:VMID)")
        found.add(int(match[1]))
    return frozenset(found)


def _nodes(value: str) -> dict[str, int]:
    found = {}
    for part in values.split_list(value):
        name, colon, priority = part.partition(":")
        found[values.node(name)] = values.integer(0)(priority) if colon else 0
    return found


_RESOURCE: dict[str, Check] = {
    "state": values.one_of("started", "stopped", "enabled", "disabled", "ignored"),
    "group": values.text,
    "max_restart": values.integer(0),
    "max_relocate": values.integer(0),
    "failback": values.boolean,
    "auto-rebalance": values.boolean,
    "comment": values.text,
}
_RULES: dict[str, dict[str, Check]] = {
    "node-affinity": {
        "resources": _guests,
        "nodes": _nodes,
        "strict": values.boolean,
        "disable": values.boolean,
        "comment": values.text,
    },
    "resource-affinity": {
        "resources": _guests,
        "affinity": values.one_of("positive", "negative"),
        "disable": values.boolean,
        "comment": values.text,
    },
}
