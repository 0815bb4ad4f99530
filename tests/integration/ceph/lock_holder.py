"""A holder of a guest's lock that marks the guest's anchor all the time, and never asks whether it still may.

Arguments: etcd's endpoint, cluster, TTL; the conf of Ceph, namespace, VMID, node, epoch. Prints `held TOKEN`,
`marked N`, and `refused WHY`, after which it ends.
"""

import asyncio
import sys

from holdfast.agent.ports import LockToken, Refused
from holdfast.agent.storage.rbd import anchor, binding
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.coordinator.clock import SystemClock
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.locks import Held, Locks


async def main() -> None:
    endpoint, cluster, ttl, conf, namespace, vmid, node, epoch = sys.argv[1:]
    connection = binding.rados().Rados(conffile=conf, rados_id="admin")
    connection.connect()
    io = connection.open_ioctx("rbd")
    io.set_namespace(namespace)
    pool = Pool(connection, io)

    async def mark(held: Held) -> None:
        """Blocks the loop, so that nothing tells it of its lost lease: it is Ceph that has to."""
        token = LockToken(1, *held.tokens.values())
        print("held", token, flush=True)
        number = 0
        while True:
            number += 1
            anchor.change(pool, int(vmid), node, int(epoch), {"sent.test": f"1-{number}"}, token=token)
            print("marked", number, flush=True)

    async with EtcdStore([endpoint]) as store:
        try:
            await Locks(store, Keyspace(cluster), node, SystemClock(), ttl=float(ttl)).run([int(vmid)], "a test", mark)
        except Refused as refused:
            print("refused", refused.reason, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
