"""Node alpha's storage with a guest's three images, without an agent."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from holdfast.agent.ports import TakeOrder
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.point import Consistency, Member, RecoveryPoint
from holdfast.coordinator.model.storage import Storage
from integration.ceph.site import Site, Where

IMAGES = ["vm-101-disk-0", "vm-101-disk-1", "vm-101-disk-2"]
SIZE = 64 * 2**20


@contextlib.asynccontextmanager
async def volumes_on(
    where: Where, directory: Path, answers_in: float = 15, grace: float = 7 * 86400
) -> AsyncIterator[NodeVolumes]:
    """Node alpha's storage, with the guest's images on it."""
    cluster, pool, namespace = where
    (directory / "home.keyring").write_bytes(cluster.keyring.read_bytes())
    properties = {"pool": pool, "monhost": cluster.address, **({"namespace": namespace} if namespace else {})}
    volumes = NodeVolumes("alpha", lambda: datetime.now(UTC), directory, Path("/nonexistent"), answers_in, grace)
    volumes.storages = lambda: {"home": Storage(type="rbd", shared=True, properties=properties)}
    for image in IMAGES:
        Site.rbd(where, "create", "--size", "64M", "--image", image)
    try:
        await volumes.scan()
        await volumes.prepare("rbd:home", 101)
        yield volumes
    finally:
        volumes.close()


def order(sequence: int, consistency: Consistency) -> TakeOrder:
    members = tuple(
        Member(
            disk=f"scsi{number}",
            volume=f"home:{image}",
            dataset=f"rbd:home/{image}",
            snapshot=f"holdfast-1-{sequence}",
            guid=0,
            size=SIZE,
        )
        for number, image in enumerate(IMAGES)
    )
    point = RecoveryPoint(
        epoch=1,
        sequence=sequence,
        instant=datetime.now(UTC),
        consistency=consistency,
        definition="d",
        disks=tuple(m.disk for m in members),
        members=members,
    )
    return TakeOrder(101, "rbd:home", 1, point, {}, "text")
