"""`zfs send` and `zfs recv` on the model: streams are begun here, moved by the wire, and ended or broken off here."""

from holdfast.agent.ports import ReceiveOrder, SendOrder, VolumesError

from .datasets import Dataset, Partial, Snap, Stream
from .zfs import Storage

HEADER = 4096
"""Bytes of a stream beside its data."""


def begin_send(storage: Storage, order: SendOrder) -> tuple[Stream, Snap]:
    """Raises VolumesError where zfs send would end before its first byte."""
    if order.resume_token is not None:
        source, guid, since, done = order.resume_token.split("|")
        dataset, snap = storage.find(source)
        if dataset is None or snap is None or snap.guid != int(guid):
            raise VolumesError(f"zfs send -t: cannot resume send: '{source}' is no longer the snapshot of the token")
        storage.audit.sends(storage, dataset)
        return _stream(dataset, snap, int(since), int(done)), snap
    dataset, snap = storage.find(order.source)
    if dataset is None or snap is None:
        raise VolumesError(f"zfs send {order.source}: dataset does not exist")
    base = 0
    if order.base is not None:
        short = order.base[1:]
        found = dataset.snaps.get(short) if order.base[0] == "@" else dataset.marks.get(short)
        if found is None:
            raise VolumesError(f"zfs send -i {order.base} {order.source}: incremental source does not exist")
        if found.txg >= snap.txg:
            raise VolumesError(f"zfs send -i {order.base} {order.source}: not an earlier snapshot from the same fs")
        base = found.guid
    storage.audit.sends(storage, dataset)
    return _stream(dataset, snap, base, None), snap


def _stream(dataset: Dataset, snap: Snap, base: int, offset: int | None) -> Stream:
    before = 0
    if base:
        earlier = dataset.by_guid(base)
        mark = next((m for m in dataset.marks.values() if m.guid == base), None)
        if earlier is None and mark is None:
            raise VolumesError(f"zfs send: incremental source {base:x} no longer exists")
        before = earlier.image.written if earlier else mark.written if mark else 0
    return Stream(snap.name, snap.guid, base, snap.image, HEADER + snap.image.written - before, offset)


def begin_receive(storage: Storage, order: ReceiveOrder, stream: Stream, source: str) -> Partial:
    """Raises VolumesError where zfs recv would refuse the stream."""
    name = order.dataset
    dataset = storage.datasets.get(name)

    def refuse(why: str) -> VolumesError:
        return VolumesError(f"zfs recv {name}: {why}")

    if dataset is not None and dataset.receiving:
        raise refuse("dataset is busy")
    if stream.offset is not None:
        partial = dataset.partial if dataset else None
        if partial is None or partial.stream.guid != stream.guid or partial.received != stream.offset:
            raise refuse("kernel modules must be upgraded or the stream does not match the partial state")
        dataset = storage.datasets[name]
    elif dataset is not None and dataset.partial is not None:
        raise refuse('destination contains partially-complete state from "zfs receive -s".')
    elif stream.base == 0:
        if dataset is not None:
            raise refuse("destination exists")
        dataset = storage.create(name, order.kind, stream.image.size, written=0)
        partial = Partial(stream, source=source, mark=order.mark)
    else:
        if dataset is None:
            raise refuse("destination does not exist")
        if dataset.newest is None or dataset.newest.guid != stream.base:
            raise refuse("most recent snapshot does not match incremental source")
        if dataset.written(dataset.image):
            raise refuse("destination has been modified since most recent snapshot")
        partial = Partial(stream, source=source, mark=order.mark)
    dataset.partial = partial
    dataset.receiving = True
    storage.audit.began(storage, name, order.mark, stream)
    storage.touch(dataset)
    return partial


def set_mark(storage: Storage, name: str, partial: Partial) -> None:
    """What zfs recv does soon after it has begun, or before it ends."""
    dataset = storage.datasets.get(name)
    if dataset is not None and dataset.partial is partial and partial.mark:
        dataset.mark = partial.mark
        storage.touch(dataset)


def arrived(storage: Storage, dataset: str, partial: Partial, count: int) -> None:
    """Take in more of a stream. Raises VolumesError where there is no room."""
    if storage.full:
        raise VolumesError(f"zfs recv {dataset}: out of space")
    partial.received += count
    partial.begun = True
    storage.audit.moved(storage, dataset, partial.stream, count)
    if found := storage.datasets.get(dataset):
        storage.touch(found)


def end_receive(storage: Storage, name: str, partial: Partial) -> None:
    """All of it has arrived: the snapshot is made. Raises VolumesError where something came between."""
    storage.sync()
    dataset = storage.datasets[name]
    stream = partial.stream
    newest = dataset.newest.guid if dataset.newest else 0
    if newest != stream.base or (stream.base and dataset.written(dataset.image)):
        dataset.receiving = False
        raise VolumesError(f"zfs recv {name}: destination has been modified since most recent snapshot")
    dataset.snaps[stream.name] = Snap(stream.name, stream.guid, storage.txg, stream.image)
    dataset.image = dataset.synced = dataset.durable = stream.image
    set_mark(storage, name, partial)
    dataset.partial = None
    dataset.receiving = False
    storage.touch(dataset)
    storage.audit.received(storage, dataset, stream)


def break_receive(storage: Storage, name: str) -> None:
    """The stream ended early: what arrived is kept, if anything did."""
    dataset = storage.datasets.get(name)
    if dataset is None or not dataset.receiving:
        return
    dataset.receiving = False
    if dataset.partial is not None:
        set_mark(storage, name, dataset.partial)
    storage.sync()
    storage.drop_empty(dataset)
    storage.touch(dataset)
