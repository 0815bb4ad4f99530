"""Shows copies of points by the kernel's client, as Proxmox shows containers their disks: mapped, and mounted.

How far that is can be seen, whoever was killed in between: a copy by its mark, a device in sysfs, a mount in the host's
table. So both ways go on where they stood. After a restart of the host only the copy is left.

rbd(8) gives the kernel the key by add_key(2): it is in no argv.
"""

import contextlib
from pathlib import Path

from holdfast.agent.guests import krbd
from holdfast.agent.guests.krbd import Device
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.storage import child
from holdfast.agent.storage.rbd.access import Access
from holdfast.coordinator.planning.copies import MOUNTS

TIMEOUT = 120.0
"""Seconds for each command."""

_MAP = "noudev,mount_timeout=30,osd_request_timeout=60"
"""Not to wait for udev's links, which nothing here needs. By default the kernel waits for an OSD for ever, and nothing
ends a process that waits for the kernel: who reads gets an error instead. Disks of guests are mapped without that."""
_OPTIONS = {"ext4": "", "ext3": "", "ext2": "", "xfs": ",nouuid"}
"""By type. XFS mounts none of which the host has another copy, as its container's disk, unless told to."""
_READ_ONLY = "ro,nosuid,nodev,noexec"


def check() -> None:
    """Raises Refused where the kernel's client is not loaded."""
    if not krbd.BUS.is_dir():
        raise Refused(
            "NoKernelClient",
            "the kernel's client for Ceph is not loaded here: modprobe rbd, and for the next time write rbd into"
            " /etc/modules-load.d/rbd.conf. Then restart holdfast-agent: its unit lets it use what was there before.",
        )


async def show(access: Access, name: str, folder: str | None) -> None:
    """Map a copy, by what the kernel knows it by; with a folder, mount it there. What is so already is as good."""
    check()
    if not _devices(name):
        await _map(access, name.rpartition("/")[2], writable=folder is not None)
    device = _devices(name)[0]
    if folder is not None and folder not in krbd.folders(device):
        await _mount(device.path, folder)


def _devices(name: str) -> list[Device]:
    """More than one where whoever mapped it first was killed before the kernel had."""
    return [device for device in krbd.devices() if device.image == name]


async def _map(access: Access, image: str, *, writable: bool) -> None:
    argv = ["rbd", "device", "map", *access.argv, "--image", image, "--options", _MAP]
    if not writable:
        argv.append("--read-only")
    await _run(*argv)


async def _mount(device: str, folder: str) -> None:
    """Read-only, but on a device that can be written to: then the kernel replays the journal first.

    A container that runs has what it wrote last in its journal alone. The replay goes into the clone, which is ours.
    """
    type = await _type(device)
    if type not in _OPTIONS:
        raise Refused(
            "NoFileSystem",
            f"{device} bears {type}, which is not mounted here (is: {', '.join(_OPTIONS)}). Make a copy that stays"
            " (holdfast snapshot clone), and look into it as you know how to.",
        )
    _make_folder(folder)
    # Newer mount(8) has system calls that the agent's unit does not let through; it goes without them if told to.
    how = ("env", "LIBMOUNT_FORCE_MOUNT2=always", "mount", "-t", type, "-o", _READ_ONLY + _OPTIONS[type])
    await _run(*how, device, folder)


async def _type(device: str) -> str:
    try:
        return (await _run("blkid", "-p", "-o", "value", "-s", "TYPE", device)).decode().strip()
    except VolumesError as error:
        hint = "If rbd was loaded after holdfast-agent was started, restart that: its unit does not let it look."
        raise VolumesError(f"no file system is seen on {device} ({error}). {hint}") from None


async def hide(name: str) -> None:
    """Undo `show`. VolumesError while somebody uses it, also where it was mounted by somebody else."""
    for device in _devices(name):
        for folder in krbd.folders(device):
            if folder.startswith(f"{MOUNTS}/"):
                await _run("umount", folder)
                _remove_folder(folder)
        await _run("rbd", "device", "unmap", "--conf", "/dev/null", "--options", "noudev", device.path)


def _make_folder(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)


def _remove_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # there is something else in it
        Path(folder).rmdir()
        Path(folder).parent.rmdir()


async def _run(*argv: str) -> bytes:
    return await child.run(argv, limit=TIMEOUT, hint="does Ceph answer? Look at ceph -s and dmesg.", mounts=True)
