"""Images of RBD that this machine's kernel has mapped, and where: read, never changed.

Sources: Linux, Documentation/ABI/testing/sysfs-bus-rbd; proc(5).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

BUS = Path("/sys/bus/rbd/devices")
"""There only where the module rbd is loaded."""
_HOSTS_MOUNTS = Path("/proc/1/mountinfo")


class Device(NamedTuple):
    """An image that is mapped as it is now, not as a snapshot of it is."""

    image: str
    """FSID/POOL/NAMESPACE/IMAGE."""
    number: str
    """MAJOR:MINOR."""
    path: str


def devices(bus: Path = BUS) -> list[Device]:
    """All there are; an image that is mapped twice has two."""
    found = []
    for device in sorted(bus.glob("*")):
        try:
            said = [(device / each).read_text().strip() for each in ("cluster_fsid", "pool", "pool_ns", "name")]
            snapshot = (device / "current_snap").read_text().strip()
            number = ":".join((device / each).read_text().strip() for each in ("major", "minor"))
        except OSError:  # it has just been unmapped
            continue
        if snapshot == "-":  # the head
            found.append(Device("/".join(said), number, f"/dev/rbd{device.name}"))
    return found


def mapped(images: Mapping[str, str], bus: Path = BUS) -> dict[str, str]:
    """MAJOR:MINOR of a device → the dataset that it is; `images`: dataset → FSID/POOL/NAMESPACE/IMAGE."""
    datasets = {name: dataset for dataset, name in images.items()}
    return {device.number: datasets[device.image] for device in devices(bus) if device.image in datasets}


def folders(device: Device, table: Path = _HOSTS_MOUNTS) -> list[str]:
    """Where the host has it mounted, the latest mount first, as they are undone."""
    lines = [line.split(" ") for line in table.read_text().splitlines()]
    return [fields[4].encode().decode("unicode_escape") for fields in lines if fields[2] == device.number][::-1]
