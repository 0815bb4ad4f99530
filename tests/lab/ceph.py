"""Ceph beside the lab's hosts, in their network: what tests of guests with disks on it share."""

from collections.abc import Sequence

from integration.ceph.cluster import CephCluster

from .cluster import Cluster
from .host import Host
from .network import GATEWAY

POOLS = {"ceph": "rbd", "ceph-replica": "replica"}
"""Storage → pool."""
KEYS = "/etc/holdfast/ceph"
BOUND = 10.0
"""Seconds for a pause: a host in the lab is 10 to 20 times slower than a real one."""


def add_storages(ceph: CephCluster, cluster: Cluster, hosts: Sequence[Host], *, krbd: bool) -> None:
    """Make them known, and start agents that reach Ceph."""
    for storeid, pool in POOLS.items():
        properties = {"pool": pool, "monhost": GATEWAY, "krbd": str(int(krbd))}
        spec = {"type": "rbd", "shared": True, "properties": properties}
        cluster.apply({"kind": "Storage", "name": storeid, "spec": spec})
    for host in hosts:
        for storeid in POOLS:
            host.put(ceph.keyring, f"{KEYS}/{storeid}.keyring", 0o600)
        cluster.agents[host.name].kill()
        cluster.start_agent(host, pause=BOUND, ceph_keys=KEYS)


def image_of(dataset: str, snapshot: str) -> tuple[str, str, str]:
    """Pool, image and snapshot of a member."""
    storeid, _, image = dataset.removeprefix("rbd:").partition("/")
    return POOLS[storeid], image, snapshot
