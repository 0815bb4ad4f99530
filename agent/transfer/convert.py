"""Between the planners' data and the messages on the wire."""

from holdfast.agent.ports import WireError
from holdfast.coordinator.model.point import RecoveryPoint
from holdfast.coordinator.planning.assignment import Assignment
from holdfast.coordinator.planning.observed import Scan
from holdfast.coordinator.planning.protection import Inventory, TargetVolume
from holdfast.proto import transfer_pb2 as wire
from pydantic import ValidationError


def inventory_message(scan: Scan, vmid: int, datasets: list[str]) -> wire.Inventory:
    """What this node holds of a guest: its complete points, and the state of the datasets that were asked for."""
    found = wire.Inventory(epoch=scan.epoch_of(vmid), points=[p.to_json() for p in scan.complete_points(vmid)])
    origins = scan.origins()
    for dataset in datasets:
        volume = scan.volumes.get(dataset)
        if volume is None:
            continue
        # ZFS counts the root block of a promoted clone as written to it; it tells the difference when it receives
        brought_back = volume.newest is not None and f"{dataset}@{volume.newest.name}" in origins
        found.volumes.append(
            wire.Volume(
                dataset=dataset,
                ours=volume.replica_of == vmid,
                guids=[s.guid for s in volume.snapshots],
                written=volume.written if volume.snapshots and not brought_back else 0,
                resume_token=volume.resume_token or "",
                resume_guid=volume.resume_guid or 0,
                resume_base=volume.resume_base or 0,
            )
        )
    return found


def inventory(message: wire.Inventory) -> Inventory:
    """Read an Inventory that another agent sent. Raises WireError if its points cannot be read."""
    try:
        points = tuple(RecoveryPoint.model_validate_json(p) for p in message.points)
    except ValidationError as error:
        raise WireError(f"the other agent's points cannot be read (another version?): {error}") from None
    return Inventory(
        epoch=message.epoch,
        points=tuple(sorted(points, key=lambda p: p.id)),
        volumes={
            v.dataset: TargetVolume(
                dataset=v.dataset,
                ours=v.ours,
                guids=tuple(v.guids),
                written=v.written,
                resume_token=v.resume_token or None,
                resume_guid=v.resume_guid or None,
                resume_base=v.resume_base or None,
            )
            for v in message.volumes
        },
    )


def at_target(point: RecoveryPoint, assignment: Assignment) -> RecoveryPoint:
    """The record as the target keeps it: its own volumes and datasets."""
    disks = {disk.disk: disk for disk in assignment.disks}
    members = tuple(
        m.model_copy(update={"volume": disks[m.disk].target_volume, "dataset": disks[m.disk].target_dataset})
        for m in point.members
    )
    return point.model_copy(update={"members": members})
