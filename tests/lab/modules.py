"""The hosts' kernel and its OpenZFS modules, compiled against Debian's headers; kept by both versions."""

import lzma
from pathlib import Path

from . import packages
from .cache import CACHE, built, command, say

JOBS = "2"
# What a virtual host never needs; leaving it out keeps the image small.
_BULK = (
    *("drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/net/ethernet", "drivers/infiniband"),
    *("drivers/staging", "drivers/iio", "drivers/hid", "drivers/usb", "drivers/comedi", "drivers/bluetooth"),
    *("drivers/isdn", "sound", "net/bluetooth", "net/mac80211"),
)


def modules() -> Path:
    """The folder with `vmlinux` and `lib/modules/<version>`, OpenZFS included."""
    # A cache made from an older kernel stays good: Debian's point releases must not cost every machine a rebuild.
    if present := sorted((CACHE / "modules").glob("[!.]*")):
        return present[-1]
    version = packages.kernel_version()
    key = f"{version}-zfs-{packages.zfs_version()}"
    return built("modules", key, lambda folder: _make(folder, version))


def _make(folder: Path, version: str) -> None:
    packages.install_on_this_machine(f"linux-headers-{version}")
    source, kernel, log = folder / "source", folder / "kernel", folder / "build.log"
    packages.unpack(source, "zfs-dkms")
    packages.unpack(kernel, f"linux-image-{version}")
    zfs = next(source.glob("usr/src/zfs-*"))
    say("compiling the OpenZFS modules (3 to 5 minutes, once)")
    headers = Path("/usr/src") / f"linux-headers-{version}"
    common = headers.with_name(headers.name.replace("-amd64", "-common"))
    command(["./configure", "--quiet", "--with-config=kernel", f"--with-linux={common}",
             f"--with-linux-obj={headers}"], log, cwd=zfs)  # fmt: skip
    command(["make", "-s", f"-j{JOBS}"], log, cwd=zfs)

    tree = folder / "lib/modules" / version
    tree.parent.mkdir(parents=True)
    (kernel / "lib/modules" / version).rename(tree)
    for name in _BULK:
        command(["rm", "-rf", tree / "kernel" / name])
    (tree / "extra").mkdir()
    built_modules = list((zfs / "module").rglob("*.ko"))
    command(["strip", "--strip-debug", *built_modules])
    command(["cp", *built_modules, tree / "extra"])
    command(["depmod", "-b", folder, version])
    # Uncompressed, QEMU enters the kernel by PVH: 5 s less than unpacking vmlinuz under emulation.
    (folder / "vmlinux").write_bytes(_uncompressed((kernel / "boot" / f"vmlinuz-{version}").read_bytes()))
    command(["rm", "-rf", source, kernel])


def _uncompressed(vmlinuz: bytes) -> bytes:
    kernel = lzma.LZMADecompressor().decompress(vmlinuz[vmlinuz.index(b"\xfd7zXZ\x00") :])
    if not kernel.startswith(b"\x7fELF"):
        raise RuntimeError("the kernel image holds no ELF file: its compression is no longer xz")
    return kernel
