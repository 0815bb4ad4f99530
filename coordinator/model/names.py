"""Names as Proxmox and ZFS allow them: everything that can end up in an argv, a key or a dataset is checked here.

A name that passes cannot be mistaken for an option (leading dash), leave its folder (slash, dots), split a line or a
column (blanks, newlines), or address a snapshot (`@`, `#`). Sources: PVE's `pve-node`, `pve-storage-id` and
`pve-vmid` formats; zfs(8) on dataset components.

The end of the text is `$` in pydantic's patterns (Rust's regex) and in JSON Schema; Python's own re would let a final
newline pass there, so its patterns end in `\\Z`.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

VMID_MIN, VMID_MAX = 100, 999_999_999
"""Proxmox gives out VMIDs in this range (PVE::JSONSchema `pve-vmid`)."""

MAX_SIZE = 2**63 - 1
"""Bytes. ZFS keeps `volsize` and `refquota` in a uint64, Linux addresses files with a signed 64-bit offset."""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$")]
StoreId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]$", max_length=100)]
PolicyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")]
RequestId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_+.-]*$", max_length=128)]
PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=128)]
"""A Proxmox resource pool (the group of guests), not a zpool."""
DiskSlot = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z]*[0-9]{0,3}$")]
Vmid = Annotated[int, Field(ge=VMID_MIN, le=VMID_MAX)]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
"""Bytes, 1 to 2^63 - 1."""

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z")
_STOREID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]\Z")
_VOLNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*\Z")
MAX_DATASET = 200
"""Characters. ZFS allows 256 with the snapshot's name; ours are shorter than the difference."""


def check_dataset(name: str) -> str:
    """Return `name` if it is a plain dataset path (`pool/a/b`, no snapshot, no leading dash); else ValueError."""
    if len(name) > MAX_DATASET or not all(_COMPONENT.match(part) for part in name.split("/")):
        raise ValueError(f"not a dataset name: {name!r} (letters, digits and _ . : - in each part, parts joined by /)")
    return name


def check_volume(volume: str) -> str:
    """Return `volume` if it reads `STOREID:volname`, as Proxmox writes it; else ValueError."""
    storeid, colon, volname = volume.partition(":")
    if not colon or not _STOREID.match(storeid) or not _VOLNAME.match(volname):
        raise ValueError(f"not a volume: {volume!r} (write STOREID:volname, e.g. local-zfs:vm-101-disk-0)")
    return volume


Dataset = Annotated[str, AfterValidator(check_dataset)]
VolumeId = Annotated[str, AfterValidator(check_volume), StringConstraints(max_length=256)]
