"""Images of RBD that this machine's kernel has mapped (Linux, Documentation/ABI/testing/sysfs-bus-rbd)."""

from collections.abc import Mapping
from pathlib import Path

_BUS = Path("/sys/bus/rbd/devices")


def mapped(images: Mapping[str, str], bus: Path = _BUS) -> dict[str, str]:
    """MAJOR:MINOR of a device → the dataset that it is; `images`: dataset → FSID/POOL/NAMESPACE/IMAGE."""
    datasets = {name: dataset for dataset, name in images.items()}
    found = {}
    for device in sorted(bus.glob("*")):
        try:
            said = [(device / each).read_text().strip() for each in ("cluster_fsid", "pool", "pool_ns", "name")]
            snapshot = (device / "current_snap").read_text().strip()
            number = ":".join((device / each).read_text().strip() for each in ("major", "minor"))
        except OSError:  # it has just been unmapped
            continue
        dataset = datasets.get("/".join(said))
        if dataset is not None and snapshot == "-":  # "-" is the head
            found[number] = dataset
    return found
