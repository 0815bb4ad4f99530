"""datacenter.cfg: bandwidth limits and the networks of migration and replication.

Source of the rules: the behaviour of PVE::DataCenterConfig: `key: value` lines, the last of a key counts.
"""

import re
from dataclasses import dataclass, field

from . import sections, values
from .sections import Finding
from .values import Check, ValueRefused

_LINE = re.compile(r"(\S+?):\s*(.*)", re.ASCII)


@dataclass(frozen=True)
class Transport:
    """How guests or volumes travel: `secure` (by SSH) or `insecure`, and the network to use."""

    type: str = "secure"
    network: str | None = None


@dataclass
class DatacenterConfig:
    """A parsed datacenter.cfg; `options` holds every line as it stands."""

    options: dict[str, str] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)
    bandwidth: dict[str, float] = field(default_factory=dict)  # operation → KiB/s
    migration: Transport = Transport()
    replication: Transport = Transport()

    @classmethod
    def parse(cls, data: bytes) -> "DatacenterConfig":
        """Read a datacenter.cfg; what cannot be read is in `warnings` and as if it were not there."""
        config = cls()
        lines: dict[str, int] = {}
        for number, raw in enumerate(sections.decode(data).split("\n"), 1):
            line = raw.strip(" \t\r\f\v")
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                config.warnings.append(Finding(number, f"ignored line: {line}"))
                continue
            config.options[match[1]] = match[2]
            lines[match[1]] = number
        taken = set()
        for key, number in sorted(lines.items()):  # migration before migration_unsecure, its old word
            try:
                if key != "migration_unsecure" or "migration" not in taken:
                    config._take(key, config.options[key])
                    taken.add(key)
            except ValueRefused as error:
                config.warnings.append(Finding(number, f"unable to parse value of {key!r}: {error}"))
        return config

    def _take(self, key: str, value: str) -> None:
        if key == "bwlimit":
            self.bandwidth = values.bandwidth_limits(value)
        elif key == "migration":
            self.migration = _transport(value)
        elif key == "replication":
            self.replication = _transport(value)
        elif key == "migration_unsecure":
            insecure = values.loose_boolean(value)
            if insecure is None:
                raise ValueRefused(f"{value!r} is no boolean")
            self.migration = Transport("insecure" if insecure else "secure")


def _transport(value: str) -> Transport:
    # the type may not be left out, not even beside a network: Proxmox then drops the whole line
    keys: dict[str, Check] = {"type": values.one_of("secure", "insecure"), "network": _network}
    given = values.property_string(value, keys, "type", required=("type",))
    return Transport(given["type"], given.get("network"))


def _network(value: str) -> str:
    address, _, prefix = value.partition("/")
    version = 4 if values.is_ip(address, 4) else 6 if values.is_ip(address, 6) else 0
    if not version or not re.fullmatch("[0-9]{1,3}", prefix) or not 8 <= int(prefix) <= (32 if version == 4 else 128):
        raise ValueRefused(f"{value!r} is no network in CIDR notation")
    return value
