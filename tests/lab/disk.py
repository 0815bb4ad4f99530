"""What QEMU boots: the kernel, a tiny initrd, and the root as a disk without loop mounts or a boot loader."""

import shutil
from pathlib import Path

from .cache import GUEST, command

_REACH_THE_ROOT = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_rng"]


def root_disk(root: Path, disk: Path) -> None:
    """Pack the folder `root` into the qcow2 image `disk`."""
    raw = disk.with_suffix(".raw")
    # With a journal: a reset while writing has corrupted a root without one.
    command(["mke2fs", "-q", "-t", "ext4", "-J", "size=16", "-E", "lazy_itable_init=1", "-d", root, raw, "4G"])
    command(["qemu-img", "convert", "-O", "qcow2", raw, disk])
    raw.unlink()


def initrd(modules: Path, scratch: Path, archive: Path) -> None:
    """Make the initrd: busybox, and the modules that reaching the root takes (uncompressed: quicker emulated)."""
    version = next((modules / "lib/modules").iterdir()).name
    for folder in ("bin", "dev", "proc", "newroot", "lib"):
        (scratch / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", scratch / "bin/busybox")
    (scratch / "bin/sh").symlink_to("busybox")
    shutil.copy(GUEST / "initrd-init", scratch / "init")
    (scratch / "init").chmod(0o755)
    shown = [command(["modprobe", "-S", version, "-d", modules, "--show-depends", name]) for name in _REACH_THE_ROOT]
    lines = [line.split() for line in "".join(shown).splitlines()]
    files = list(dict.fromkeys(Path(words[1]) for words in lines if words[0] == "insmod"))
    for file in files:
        shutil.copy(file, scratch / "lib")
    (scratch / "modules").write_text("".join(f"{file.name}\n" for file in files))
    names = "\n".join(str(path.relative_to(scratch)) for path in scratch.rglob("*"))
    command(["cpio", "-o", "-H", "newc", "--quiet", "-F", archive], cwd=scratch, stdin=names)
