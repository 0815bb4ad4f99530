"""A VM with an ext4 and the real qemu-guest-agent in it: Debian's kernel for clouds, busybox, an init of our own."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import cache, packages

_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_blk", "virtio_console"),
)
_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in {" ".join(_MODULES)}; do insmod /$module.ko; done
mount -t ext4 /dev/vda /mnt || exit
(until [ -e /dev/vport?p1 ]; do sleep 0.1; done; exec qemu-ga -m virtio-serial -p /dev/vport?p1 -t /run) &
n=0
while :; do
    n=$((n + 1))
    echo $n >/mnt/new
    sync -f /mnt/new
    mv /mnt/new /mnt/counter
    echo "wrote $n"
done
"""
"""Writes a counter for ever, and says on the serial line what it has written."""


@dataclass(frozen=True)
class AgentVm:
    """What a running one can be reached by."""

    qmp: Path
    qga: Path
    serial: Path
    """A line for each counter that is on its disk."""
    disk: Path


def _fill(folder: Path) -> None:
    """`folder`/vmlinuz and `folder`/initrd."""
    kernel, root = packages.kernel_version().replace("-amd64", "-cloud-amd64"), folder / "root"
    unpacked = folder / "unpacked"
    packages.unpack(unpacked, f"linux-image-{kernel}", "qemu-guest-agent")
    shutil.copy(unpacked / f"boot/vmlinuz-{kernel}", folder / "vmlinuz")
    for place in ("bin", "dev", "proc", "sys", "mnt", "run", "var/run", "var/log"):
        (root / place).mkdir(parents=True)
    agent = shutil.copy(unpacked / "usr/sbin/qemu-ga", root / "bin")
    shutil.copy("/bin/busybox", root / "bin")
    for line in cache.command(["ldd", agent]).splitlines():
        for library in [word for word in line.split() if word.startswith("/")]:
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    for module in _MODULES:
        shutil.copy(next((unpacked / "lib/modules").rglob(f"{module}.ko")), root)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    )
    (folder / "initrd").write_bytes(archive.stdout)
    for done in (root, unpacked):
        shutil.rmtree(done)


def image() -> Path:
    """The folder that VMs boot from, built if need be."""
    with cache.locked("agent-vm"):
        return cache.built("agent-vm", hashlib.sha256(_INIT.encode()).hexdigest()[:12], _fill)


@contextmanager
def running(booted_from: Path, folder: Path) -> Iterator[AgentVm]:
    """One VM, its sockets, disk and serial line in `folder`."""
    vm = AgentVm(folder / "101.qmp", folder / "101.qga", folder / "serial", folder / "disk")
    with vm.disk.open("wb") as disk:
        disk.truncate(64 << 20)
    cache.command(["mke2fs", "-q", "-t", "ext4", "-J", "size=4", vm.disk])
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "160", "-nodefaults", "-display", "none", "-no-user-config"]
    argv += ["-kernel", f"{booted_from}/vmlinuz", "-initrd", f"{booted_from}/initrd", "-append", "quiet panic=-1"]
    argv += ["-drive", f"file={vm.disk},format=raw,if=virtio", "-serial", f"file:{vm.serial}"]
    argv += ["-device", "virtio-serial", "-chardev", f"socket,path={vm.qga},server=on,wait=off,id=qga"]
    argv += ["-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"]
    process = subprocess.Popen([*argv, "-qmp", f"unix:{vm.qmp},server=on,wait=off"])
    try:
        yield vm
    finally:
        process.kill()
        process.wait()
