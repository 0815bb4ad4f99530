"""zfs send and zfs recv on what a channel gives them. What arrived of a broken stream is kept for resuming."""

import asyncio

from holdfast.agent.ports import ReceiveOrder, SendOrder
from holdfast.agent.storage.child import StreamChannel, move
from holdfast.agent.storage.zfs import names
from holdfast.coordinator.model.names import check_dataset


def send_args(order: SendOrder) -> list[str]:
    """zfs-send(8): compressed, embedded and large blocks as they lie on disk; raw where encrypted (DESIGN §7)."""
    if order.resume_token is not None:
        return ["send", "-t", order.resume_token]
    args = ["send", "-w"] if order.raw else ["send", "-L", "-e", "-c"]
    if order.base is not None:
        dataset = order.source.partition("@")[0]
        base = order.base if order.base.startswith("@") else dataset + order.base
        args += ["-i", names.check_snapshot(dataset + order.base) and base]
    return [*args, names.check_snapshot(order.source)]


def receive_args(order: ReceiveOrder) -> list[str]:
    """zfs-receive(8): resumable, unmounted, closed to the host, marked as ours on the dataset itself."""
    args = ["recv", "-s", "-u"]
    if not order.resume:
        closed = {"readonly": "on", names.REPLICA: order.mark}
        if order.kind == "volume":
            closed["volmode"] = "none"
        else:
            closed["canmount"] = "noauto"
        for key, value in closed.items():
            args += ["-o", f"{key}={value}"]
    return [*args, check_dataset(order.dataset)]


async def send(order: SendOrder, channel: StreamChannel) -> None:
    """Write a stream into the channel. Raises VolumesError."""
    async with channel.sending() as descriptor:
        await move(("zfs", *send_args(order)), channel, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor)


async def receive(order: ReceiveOrder, channel: StreamChannel) -> None:
    """Read a stream from the channel. Raises VolumesError."""
    async with channel.receiving() as descriptor:
        await move(("zfs", *receive_args(order)), channel, stdin=descriptor, stdout=asyncio.subprocess.DEVNULL)
