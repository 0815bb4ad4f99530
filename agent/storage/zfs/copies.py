"""Clones of snapshots: heads that are brought back, and copies of points for people (zfs-clone(8)).

A clone has none of the properties of what it comes from. Those of a head that is set aside are noted on it, so that the
clone which takes its place can have them, whenever it is made.
"""

import orjson
import structlog
from holdfast.agent.ports import CopyOrder, VolumesError
from holdfast.agent.storage.zfs import names
from holdfast.agent.storage.zfs.command import run
from holdfast.coordinator.model.names import check_dataset

log = structlog.get_logger()

_WAS = f"{names.PREFIX}was"
"""On what was set aside: its properties of before, as JSON."""
_OF_THE_SNAPSHOT = frozenset(
    {"volsize", "volblocksize", "utf8only", "normalization", "casesensitivity", "version", "encryption", "keyformat"}
    | {"keylocation", "pbkdf2iters", "mlslabel"}
)
"""Cannot be given to a clone: they come with the snapshot."""


async def put_aside(dataset: str, aside: str, kind: str) -> None:
    """Rename a head out of the way and close it. It fails where a file system is in use."""
    listed = await run("get", "-Hp", "-s", "local", "-o", "property,value", "all", check_dataset(dataset))
    was = dict(line.split("\t", 1) for line in listed.decode().splitlines())
    await run("set", f"{_WAS}={orjson.dumps(was).decode()}", dataset)
    await run("rename", dataset, check_dataset(aside), mounts=True)
    await close(aside, kind)


async def close(dataset: str, kind: str) -> None:
    """Nobody finds it by a device or a mount, and it reserves nothing."""
    properties = ["volmode=none", "refreservation=none"] if kind == "volume" else ["canmount=noauto"]
    await run("set", "readonly=on", *properties, dataset)


async def clone_back(snapshot: str, dataset: str, kind: str) -> None:
    """Make a head of a snapshot of what was set aside, with the head's properties."""
    aside = names.check_snapshot(snapshot).partition("@")[0]
    await close(aside, kind)  # whoever set it aside may have been killed before that
    noted = (await run("get", "-Hp", "-s", "local", "-o", "value", _WAS, aside)).decode().strip()
    was: dict[str, str] = orjson.loads(noted) if noted else {}
    reserved = was.pop("refreservation", "none") not in ("none", "0")
    options = [f"{k}={v}" for k, v in was.items() if k not in _OF_THE_SNAPSHOT and k != _WAS]
    await run(
        "clone", *(arg for option in options for arg in ("-o", option)), snapshot, check_dataset(dataset), mounts=True
    )
    if reserved:
        try:
            await run("set", "refreservation=auto", dataset)
        except VolumesError as error:
            log.warning("the volume is thin now: its space could not be reserved", dataset=dataset, error=str(error))


async def make(order: CopyOrder) -> None:
    """Clone a point's snapshot for a person."""
    properties = {"readonly": "on", names.COPY: order.mark}
    if order.kind == "volume":
        # without its partitions: the host's own LVM and multipath would take what they find on them for theirs
        properties["volmode"] = "dev" if order.folder else "none"
    else:
        properties |= {"canmount": "noauto", "setuid": "off", "exec": "off", "devices": "off"}
        properties["mountpoint"] = order.folder or "none"
    options = [arg for key, value in properties.items() for arg in ("-o", f"{key}={value}")]
    await run("clone", *options, names.check_snapshot(order.snapshot), check_dataset(order.dataset))


async def show(order: CopyOrder) -> None:
    """Mount a container's volume where it was made to be. A VM's disk has its device already."""
    if order.kind != "filesystem":
        return
    try:
        await run("mount", check_dataset(order.dataset), mounts=True)
    except VolumesError as error:
        if "already mounted" not in str(error):
            raise
