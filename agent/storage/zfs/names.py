"""Names of Holdfast's own datasets, holds and properties on a pool."""

import re

from holdfast.coordinator.model.names import check_dataset

PREFIX = "holdfast:"
HOLD = "holdfast"
"""The tag of every hold."""
REPLICA = f"{PREFIX}replica"
"""On a replica's dataset: `VMID/SLOT`. Only if set there (source `local`) does it count."""
COPY = f"{PREFIX}copy"
"""On a copy of a point: its `CopyMark`."""
EPOCH = f"{PREFIX}epoch"
POINT = f"{PREFIX}point."
SENT = f"{PREFIX}sent."
DEFINITION = f"{PREFIX}definition."

_SNAPSHOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z")


def root(pool: str) -> str:
    """Parent of everything of ours on a pool."""
    return f"{pool}/holdfast"


def anchor(pool: str, vmid: int) -> str:
    """The dataset that carries what is marked about a guest. Its name matches none of Proxmox's volume patterns."""
    return f"{pool}/holdfast/guests/{vmid}"


def aside(dataset: str, vmid: int, epoch: int, number: int) -> str:
    """Where divergent or superseded data of a guest goes (DESIGN §7)."""
    pool, _, rest = dataset.partition("/")
    return f"{pool}/holdfast/aside/{vmid}-e{epoch}-{number}-{rest.rpartition('/')[2]}"


def is_copy(dataset: str) -> bool:
    """Whether it lies where only copies of points are."""
    return dataset.split("/")[1:3] == ["holdfast", "clones"]


def check_snapshot(name: str) -> str:
    """Return `dataset@snapshot` or `dataset#bookmark` if it is fit for an argv; else ValueError."""
    dataset, separator, short = name.partition("#" if "#" in name else "@")
    check_dataset(dataset)
    if not separator or not _SNAPSHOT.match(short):
        raise ValueError(f"not a snapshot or bookmark: {name!r}")
    return name
