"""The storage fence: keeps clients of a guest's images from writing, whoever they are and whatever they think.

Guards invariant 1. The exclusive lock of an image is cooperative, evidence and no fence; a blocklist entry is enforced
by every OSD. Who is fenced: every client that was recorded on the guest's anchor before the guest started there, and
every one that watches an image now; a partitioned client's watch times out, so neither alone is enough. An address with
a nonce is one librbd client, of one QEMU; of krbd it is the kernel, so all images that the host has mapped go with it.
A whole host (`hosts`) is fenced for clients that are started later, too.

In effect means: the mons list every entry, and every OSD that serves the pools has answered an operation of ours that
bore the map with them. An OSD takes no operation before it has the operation's map (OSD::handle_fast_dispatch), and
from then on refuses the fenced. Entries are lifted only by `lift`.

The key needs `mon 'profile rbd, allow command "osd blocklist"'` and `osd 'profile rbd'` on the pools: `profile rbd`
alone may add an address with a nonce, but neither a host nor lift anything (seen on 16.2.15).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from holdfast.agent.ports import VolumesError
from holdfast.agent.storage.rbd import anchor
from holdfast.agent.storage.rbd.cluster import Pool
from holdfast.agent.storage.rbd.images import opened

CLIENT = "client."
"""On the anchor: an address with a nonce that may write the guest's images → its node."""
EXPIRE = 366 * 86400.0
"""Seconds. An entry that expired would let a host that was partitioned for long write again."""

_PROBES = 64
"""Objects asked for per OSD until it is believed to serve nothing of a pool."""
_CLIENT = re.compile(r"(?:[0-9.]+|\[[0-9a-fA-F:]+\]):[0-9]+/[0-9]+\Z")
_HOST = re.compile(r"[0-9.]+\Z|[0-9a-fA-F:]+\Z")


@dataclass(frozen=True, slots=True)
class Fence:
    """What was fenced, and what proves that it is."""

    entries: tuple[str, ...]
    """Of the blocklist, as the mons list them."""
    epoch: int
    """Of the OSD map that has them."""
    osds: tuple[int, ...]
    """Those that have answered under it."""


def own_address(pool: Pool) -> str:
    """This client's address and nonce, as the OSDs see it."""
    return re.sub(r"^(v1|v2|any):", "", str(pool.connection.get_addrs()))


def record(pool: Pool, vmid: int, me: str, epoch: int, clients: Sequence[str]) -> None:
    """Note who is about to write the guest's images; before they do."""
    for client in clients:
        _check(client, _CLIENT)
    anchor.change(pool, vmid, me, epoch, {CLIENT + client: me for client in clients})


def recorded(pool: Pool, vmid: int) -> frozenset[str]:
    """Every client that was recorded for a guest."""
    marks = anchor.read(pool, vmid)
    return frozenset(k.removeprefix(CLIENT) for k in (marks.values if marks else {}) if k.startswith(CLIENT))


def watchers(pool: Pool, images: Sequence[str]) -> frozenset[str]:
    """Every client that has one of the images open now, but this one."""
    found: set[str] = set()
    for name in images:
        with opened(pool, name, read_only=True) as image:
            found |= {watcher["addr"] for watcher in image.watchers_list()}
    return frozenset(found)


def fence(pool: Pool, vmid: int, images: Sequence[str], hosts: Collection[str] = ()) -> Fence:
    """Fence all clients of a guest, and hosts; returns when that is in effect. Raises VolumesError if it is not."""
    wanted = (recorded(pool, vmid) | watchers(pool, images)) - {own_address(pool)}
    for client in wanted:
        _check(client, _CLIENT)
    for host in hosts:
        _check(host, _HOST)
    for address in (*sorted(wanted), *sorted(hosts)):
        _mon(pool, "osd blocklist", blocklistop="add", addr=address, expire=EXPIRE)
    listed = _listed(pool)
    expected = {*wanted, *(_entry(host) for host in hosts)}
    if missing := expected - listed:
        raise VolumesError(f"not fenced: the mons do not list {', '.join(sorted(missing))} (ceph osd blocklist ls).")
    pool.connection.wait_for_latest_osdmap()
    dump = _mon(pool, "osd dump")
    return Fence(tuple(sorted(expected)), int(dump["epoch"]), _reach_all(pool, dump))


def lift(pool: Pool, entries: Sequence[str]) -> None:
    """Take entries off the blocklist: only once those that they name cannot write any more."""
    for entry in entries:
        _mon(pool, "osd blocklist", blocklistop="rm", addr=entry)


def _reach_all(pool: Pool, dump: Any) -> tuple[int, ...]:
    """Ask every OSD that is the first of some placement group of the pools for an object; it has our map then."""
    up = {osd["osd"] for osd in dump["osds"] if osd["up"]}
    reached: set[int] = set()
    for name in _pools(pool, dump):
        with pool.connection.open_ioctx(name) as io:
            left = _PROBES * max(1, len(up))
            here: set[int] = set()
            while left and not up <= here:
                left -= 1
                probe = f"holdfast.fence.{left}"
                primary = _mon(pool, "osd map", pool=name, object=probe)["acting_primary"]
                if primary not in here:
                    _touch(pool, io, probe)
                    here.add(primary)
            reached |= here
    return tuple(sorted(reached))


def _touch(pool: Pool, io: Any, object: str) -> None:
    try:
        io.stat(object)
    except pool.rados.ObjectNotFound:
        return


def _pools(pool: Pool, dump: Any) -> list[str]:
    """This pool, and those in which images of it keep their data."""
    by_id = {each["pool"]: each["pool_name"] for each in dump["pools"]}
    found = {pool.id}
    for entry in pool.rbd.RBD().list2(pool.io):
        with opened(pool, entry["name"], read_only=True) as image:
            found.add(image.data_pool_id())
    return [by_id[number] for number in sorted(found) if number in by_id]


def _listed(pool: Pool) -> set[str]:
    """The blocklist. Its JSON is followed by a second document, of ranges (seen on 16.2.15)."""
    out = pool.mon("osd blocklist ls", format="json")
    entries = orjson.loads(out.partition(b"]")[0] + b"]")
    return {str(entry["addr"]) for entry in entries}


def _entry(host: str) -> str:
    return f"[{host}]:0/0" if ":" in host else f"{host}:0/0"


def _check(text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.match(text):
        raise VolumesError(f"not fenced: {text!r} is no address of a client of Ceph.")


def _mon(at: Pool, prefix: str, /, **arguments: object) -> Any:
    out = at.mon(prefix, format="json", **arguments)
    return orjson.loads(out) if out else None
