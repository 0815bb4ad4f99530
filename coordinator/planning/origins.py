"""Who made a snapshot, told by its name. Pure. What is not ours is shown with its origin, and never touched.

A name proves nothing, and nothing is decided by one: what Holdfast lets go of is told by records and GUIDs. Sources:
the tools' documentation and default settings.
"""

import re
from collections.abc import Collection

from holdfast.coordinator.model.point import PointId

_KNOWN = (
    (r"__replicate_.+__", "Proxmox replication (pvesr)"),
    (r"__migration__", "Proxmox migration"),
    (r"__base__", "Proxmox template"),
    (r"vzdump", "Proxmox backup (vzdump)"),
    (r"(?:state-)?auto[A-Za-z0-9_]*[0-9]{12}", "cv4pve-autosnap"),
    (r"autosnap_.+", "sanoid"),
    (r"syncoid_.+", "syncoid"),
    (r"zrepl_.+", "zrepl"),
    (r"zfs-auto-snap_.+", "zfs-auto-snapshot"),
    (r"pyznap_.+", "pyznap"),
    (r"auto-[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}", "TrueNAS"),
    (r"[A-Za-z0-9_.:-]+-[0-9]{14}", "zfs-autobackup"),
    (r"\.mirror\..+", "rbd-mirror"),
)
_PATTERNS = tuple((re.compile(pattern + r"\Z"), tool) for pattern, tool in _KNOWN)


def origin(name: str, of_guest: Collection[str] = (), kind: str = "qemu") -> str:
    """The tool, in words. `of_guest`: names of the snapshots in the guest's own definition; `kind`: qemu or lxc."""
    if PointId.of_snapshot(name) is not None:
        return "holdfast"
    for pattern, tool in _PATTERNS:
        if pattern.match(name):
            return tool
    if name in of_guest:
        return f"{'qm' if kind == 'qemu' else 'pct'} snapshot"
    return "by hand, or another tool"


def snapshot_names(definition: str) -> frozenset[str]:
    """The snapshots that a guest's definition lists: each is a section of its own (qm.conf(5), pct.conf(5))."""
    names = re.findall(r"^\[([A-Za-z][A-Za-z0-9_-]*)\]\s*$", definition, re.MULTILINE)
    return frozenset(names) - {"PENDING"}
