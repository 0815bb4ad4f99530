"""The template: a booted host, saved with its memory, from which every host of a lab is restored in seconds."""

import time
from pathlib import Path

from .cache import command
from .exec_channel import ExecChannel
from .machine import DATA_DISK_BYTES, DATA_DISKS, PERSIST_BYTES, Machine, exec_port
from .network import Network

# What hosts will read, read once now, so that it is in the saved page cache. The ZFS modules are read, not loaded.
_WARM = """
set -e
python3 -c 'import asyncio, grpc, grpc.aio, pydantic, pydantic_settings, structlog, orjson, yaml, click, rich.console'
python3 -c 'import rbd'
rbd --version >/dev/null
cat /lib/modules/*/extra/*.ko /sbin/zfs /sbin/zpool /usr/sbin/sshd >/dev/null
modprobe -n zfs
zfs version >/dev/null 2>&1 || true
sync
"""


def make_root(folder: Path, root: Path) -> None:
    """A fresh root: a layer in `folder` over the root image `root` (a relative path starts from `folder`)."""
    command(["qemu-img", "create", "-q", "-f", "qcow2", "-b", root, "-F", "qcow2", folder / "root.qcow2"])


def make_disks(folder: Path, root: Path) -> None:
    """A host's disks in `folder`: its root, blank data disks, and a disk for what must outlast a power cut."""
    make_root(folder, root)
    for index in range(1, DATA_DISKS + 1):
        command(["truncate", "-s", str(DATA_DISK_BYTES), folder / f"data{index}.raw"])
    command(["truncate", "-s", str(PERSIST_BYTES), folder / "persist.raw"])
    command(["mke2fs", "-q", "-t", "ext4", "-J", "size=16", folder / "persist.raw"])


def make_template(image: Path) -> None:
    """Boot a host from `image`/base.qcow2 and leave its state as `image`/state, its root as `image`/root.qcow2."""
    network = Network("template")
    network.delete()
    network.create()
    machine = Machine(0, image, network)
    try:
        network.add_tap(0)
        make_disks(image, Path("base.qcow2"))
        machine.start(image / "vmlinux", image / "initrd.cpio")
        channel = ExecChannel(exec_port(0))
        network.enter()
        started = time.monotonic()
        channel.wait(timeout=120)
        (image / "boot-seconds").write_text(f"{time.monotonic() - started:.1f}\n")
        result = channel.run(_WARM, timeout=300)
        if result.status != 0:
            raise RuntimeError(f"warming the template failed: {result.stderr.decode()}")
        machine.save(image / "state")
    finally:
        machine.kill()
        network.delete()
    for name in ("data1.raw", "data2.raw", "persist.raw"):
        (image / name).unlink()
