"""What rbd-mirror does with a guest's disks: how it is reported, and that it is not fought."""

from collections.abc import Iterable, Iterator

from holdfast.agent.ports import Refused
from holdfast.coordinator.model.report import MirrorReport
from holdfast.coordinator.planning.assignment import Disk
from holdfast.coordinator.planning.observed import MirrorSite, Scan

_UNTOLD = MirrorSite("unknown", False, None, "no copy reports")


def mirror_reports(disks: Iterable[Disk], scan: Scan) -> Iterator[MirrorReport]:
    """One for each copy of each disk that rbd-mirror keeps."""
    for disk in disks:
        volume = scan.volumes.get(disk.dataset)
        if volume is not None and volume.mirror is not None:
            for site in volume.mirror.sites or (_UNTOLD,):
                yield MirrorReport(
                    disk=disk.disk,
                    primary=volume.mirror.primary,
                    state=site.state,
                    up=site.up,
                    at=site.at,
                    detail=site.detail,
                )


def kept_by_mirror(dataset: str) -> Refused:
    """Why nothing is received into an image, nor is it rolled back or renamed."""
    return Refused(
        "Mirrored",
        f"{dataset} is kept by rbd-mirror; it is left alone. Map the disk to another storage, or take the image out of"
        " mirroring (rbd mirror image disable).",
    )
