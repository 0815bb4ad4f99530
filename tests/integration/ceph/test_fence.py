"""The storage fence, on hosts in network namespaces: a fenced writer stops, and stays stopped."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.rbd import anchor, fence
from holdfast.agent.storage.rbd.access import Access
from holdfast.agent.storage.rbd.cluster import Cluster
from holdfast.coordinator.model.storage import Storage
from integration.ceph.cluster import CephCluster, ceph_running
from integration.ceph.hosts import Link, Namespace, Network
from integration.ceph.site import Guest, by_hand

pytestmark = pytest.mark.timeout(180, func_only=True)

CAPS = ("mon", 'profile rbd, allow command "osd blocklist"', "osd", "profile rbd")


@dataclass(frozen=True)
class Hosts:
    """A network with a cluster on it, and one hypervisor."""

    cluster: str
    hypervisor: Namespace
    link: Link


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    network, hypervisor = Network(), Namespace()
    try:
        network.up()
        hypervisor.up()
        yield Hosts(network.add_here(), hypervisor, hypervisor.join(network))
    finally:
        hypervisor.down()
        network.down()


@pytest.fixture(scope="module")
def bridged(hosts: Hosts) -> Iterator[CephCluster]:
    with ceph_running(store="memstore", address=hosts.cluster) as cluster:
        cluster.add_key("fencer", *CAPS)
        cluster.add_key("plain", "mon", "profile rbd", "osd", "profile rbd")
        yield cluster


@pytest.fixture
def fencer(bridged: CephCluster, tmp_path: Path) -> Iterator[Callable[[str], Cluster]]:
    """A connection of a node that does not own the guest, with a key of its own."""
    made: list[Cluster] = []

    def connect(user: str = "fencer") -> Cluster:
        (tmp_path / "s.keyring").write_bytes((bridged.directory / f"{user}.keyring").read_bytes())
        properties = {"pool": "rbd", "monhost": bridged.address, "username": user}
        storage = Storage(type="rbd", shared=True, properties=properties)
        made.append(Cluster(Access.of("s", storage, tmp_path, Path("/nonexistent"), 10)))
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def guest(bridged: CephCluster, hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest on the hypervisor that writes to one image, named for the test."""
    bridged.rbd("create", "--size", "64M", f"rbd/{image_of(request)}")
    made = Guest((bridged, "rbd", ""), [image_of(request)], command=hosts.hypervisor.command)
    try:
        deadline = time.monotonic() + 20
        while len(made.lines()) < 20:
            assert time.monotonic() < deadline, made.lines()
            time.sleep(0.05)
        yield made
    finally:
        made.kill()


def image_of(request: pytest.FixtureRequest) -> str:
    return f"vm-101-disk-{abs(hash(request.node.name)) % 1000}"


def last_write(guest: Guest) -> float:
    """When the last write was acknowledged, by the wall clock."""
    return float([line for line in guest.lines() if line[:1].isdigit()][-1].split()[1])


def last_counter(guest: Guest) -> int:
    """The last counter whose write was acknowledged."""
    return int([line for line in guest.lines() if line[:1].isdigit()][-1].split()[0])


async def ended(guest: Guest, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while guest.process.poll() is None:
        assert time.monotonic() < deadline, guest.lines()[-3:]
        await asyncio.sleep(0.05)


async def test_a_writer_is_stopped_within_a_second(
    bridged: CephCluster, guest: Guest, fencer: Callable[[str], Cluster], request: pytest.FixtureRequest
) -> None:
    cluster, image = fencer("fencer"), image_of(request)
    await cluster.call("connect", lambda pool: None)
    began = time.time()
    made = await cluster.call("fence", partial(fence.fence, vmid=101, images=[image]))
    done = time.time()
    await ended(guest, 5)
    print(f"fenced in {done - began:.3f} s, last write {last_write(guest) - began:+.3f} s: {made}")
    assert last_write(guest) <= done
    assert last_write(guest) - began <= 1.0
    assert made.osds == (0,)
    assert len(made.entries) == 1
    with by_hand((bridged, "rbd", "")) as hand:
        assert hand.counter(image) > 0  # others are not fenced
        before = hand.read(image)
        await asyncio.sleep(1)
        assert hand.read(image) == before


async def test_one_that_was_partitioned_writes_nothing_after_it_heals(
    bridged: CephCluster,
    hosts: Hosts,
    guest: Guest,
    fencer: Callable[[str], Cluster],
    request: pytest.FixtureRequest,
) -> None:
    cluster, image = fencer("fencer"), image_of(request)
    clients = await cluster.call("look", partial(fence.watchers, images=[image]))
    await cluster.call("mark", lambda pool: anchor.make(pool, 102, "alpha"))
    await cluster.call("mark", partial(fence.record, vmid=102, me="alpha", epoch=1, clients=sorted(clients)))
    hosts.link.cut()
    try:
        await asyncio.sleep(2)
        made = await cluster.call("fence", partial(fence.fence, vmid=102, images=[], hosts=[hosts.link.address]))
        assert made.entries == tuple(sorted({*clients, f"{hosts.link.address}:0/0"}))
        with by_hand((bridged, "rbd", "")) as hand:
            before = hand.read(image)
            hosts.link.heal()
            await ended(guest, 60)
            # the answer to a write that was done before the cut may arrive only now
            assert last_counter(guest) <= int.from_bytes(before[:8], "big")
            assert hand.read(image) == before
    finally:
        hosts.link.heal()
        await cluster.call("lift", lambda pool: fence.lift(pool, [f"{hosts.link.address}:0/0"]))


async def test_a_key_without_the_right_caps_is_told_so(
    guest: Guest, fencer: Callable[[str], Cluster], request: pytest.FixtureRequest
) -> None:
    cluster = fencer("plain")
    with pytest.raises(VolumesError, match="needs the caps"):
        await cluster.call("fence", partial(fence.fence, vmid=103, images=[], hosts=["10.1.2.3"]))
    assert guest.process.poll() is None
