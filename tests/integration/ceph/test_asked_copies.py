"""Copies that people ask the agent for, on a real Ceph."""

from types import SimpleNamespace
from typing import Any

import pytest
from holdfast.coordinator.cli.asking import ask_for
from holdfast.coordinator.store.client import EtcdStore
from integration.ceph.site import Hand, Site, by_hand, running
from integration.ceph.test_rollback import content, newest, write

pytestmark = pytest.mark.timeout(120, func_only=True)


async def _clone(site: Site, store: EtcdStore, point: str, **more: Any) -> str:
    connection: Any = SimpleNamespace(keyspace=site.keys)
    return await ask_for(store, connection, 60, "clone", 101, "alpha", at=point, name="look", **more)


def _copied(site: Site, hand: Hand) -> list[bytes]:
    return [hand.read(f"holdfast.clones.101-look-{image}") for image in site.disks.values()]


@pytest.mark.parametrize("flatten", [True, False])
async def test_a_point_goes_by_the_rules_once_its_copy_is_flat_and_not_before(
    site: Site, store: EtcdStore, flatten: bool
) -> None:
    await site.define(store)
    with by_hand(site.home) as hand:
        write(site, hand, b"first", 0, 9)
        async with running(site):
            await site.progress()
            first = await newest(site)
            was = content(site, hand)
            said = await _clone(site, store, str(first.id), flatten=flatten)
            assert ("and does not need the point: scsi0: " in said) is flatten
            for _ in range(3):
                write(site, hand, b"later", 9)
                await site.progress()
            there = {p.id for p in (await site.scan("alpha")).complete_points(101)}
            assert (first.id in there) is not flatten
            assert _copied(site, hand) == was
            assert site.reasons() == {}
