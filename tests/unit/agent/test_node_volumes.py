"""Which back end a call goes to, and what a node without Ceph or ZFS sees."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.volumes import NodeVolumes
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.planning.observed import pool_of

CEPH = Storage(type="rbd", shared=True, properties={"monhost": "127.0.0.1"})


def volumes(storages: Mapping[str, Storage]) -> NodeVolumes:
    made = NodeVolumes(
        "alpha", lambda: datetime(2026, 1, 2, tzinfo=UTC), Path("/nonexistent"), Path("/nonexistent"), 0.5
    )
    made.storages = lambda: storages
    return made


def test_one_storage_of_ceph_is_what_a_guest_is_snapshotted_in_at_once() -> None:
    assert pool_of(CEPH.dataset("ceph-a", "base-9-disk-0/vm-101-disk-0")) == "rbd:ceph-a"


async def test_a_storage_that_cannot_be_reached_is_told_within_its_bound() -> None:
    node = volumes({"ceph-a": CEPH, "elsewhere": CEPH.model_copy(update={"nodes": ("beta",)})})
    try:
        scan = await node.scan()
    finally:
        node.close()
    assert scan.failed.keys() == {"rbd:ceph-a"}
    assert scan.volumes == {}


async def test_a_storage_that_is_not_defined_here_is_refused_by_name() -> None:
    with pytest.raises(VolumesError, match="ceph-z is not defined"):
        await volumes({}).prepare("rbd:ceph-z", 101)
