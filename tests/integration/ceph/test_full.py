"""A pool that is full: nothing new fits, but what is superseded can be let go of."""

from pathlib import Path

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.coordinator.model.point import Consistency
from holdfast.coordinator.planning.copies import copies
from holdfast.coordinator.planning.leftovers import Doomed
from integration.ceph.cluster import CephCluster
from integration.ceph.home import IMAGES, order, volumes_on
from integration.ceph.site import MIB, by_hand
from integration.ceph.test_copies import copy_of
from integration.ceph.test_faults import set_quota

pytestmark = pytest.mark.timeout(180, func_only=True)


async def test_superseded_snapshots_go_from_a_full_pool(ceph: CephCluster, tmp_path: Path) -> None:
    ceph.make_pool("tight")
    where = (ceph, "tight", "")
    async with volumes_on(where, tmp_path, answers_in=3) as volumes:
        with by_hand(where) as hand:
            hand.write(IMAGES[0], bytes(1) * MIB)
            first = await volumes.take(order(1, Consistency.ATOMIC))
            second = await volumes.take(order(2, Consistency.ATOMIC))
            await volumes.hold([m.full_name for m in (*first.members, *second.members)])
            hand.write(IMAGES[0], b"x" * 8 * MIB)
            set_quota(ceph, "tight", MIB)
            doomed = [Doomed(m.full_name, m.guid) for m in first.members]
            try:
                await volumes.release([m.full_name for m in first.members])
                await volumes.destroy("rbd:home", 101, 1, doomed, [first.id], [])
                assert [hand.snapshots(image) for image in IMAGES] == [["holdfast-1-2"]] * 3
                assert [p.id for p in (await volumes.scan()).complete_points(101)] == [second.id]
                with pytest.raises(VolumesError, match=r"in time|full"):
                    await volumes.take(order(3, Consistency.ATOMIC))
                with pytest.raises(VolumesError, match=r"in time|full"):
                    await volumes.make_copy(copy_of(second))
            finally:
                set_quota(ceph, "tight", 0)
            assert (await volumes.take(order(4, Consistency.ATOMIC))).consistency is Consistency.ATOMIC
            await volumes.make_copy(copy_of(second))
            assert copies(await volumes.scan()).keys() == {(101, "look")}
