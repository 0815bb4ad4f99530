"""The whole image, in order: packages, modules, root, disk, template. Kept by a hash of everything it is made from."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import disk, packages, rootfs
from .cache import CACHE, GUEST, SOURCE, built, command, discard_old, locked, say
from .modules import modules
from .template import make_template

_BUILDERS = ("packages", "modules", "rootfs", "disk", "template", "machine")
SSH_KEY = CACHE / "ssh-key"


@dataclass(frozen=True)
class Image:
    """What hosts are started from."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.cpio"

    @property
    def root(self) -> Path:
        return self.folder / "root.qcow2"

    @property
    def state(self) -> Path:
        return self.folder / "state"


def build() -> Image:
    """The image of this checkout, from the cache where it is there."""
    with locked("build"):
        key = _key()
        if not (CACHE / "image" / key).is_dir():
            _prepare()
        folder = built("image", key, _make)
        discard_old("image", keep=3)
        packages.etcd()
        return Image(folder)


def _key() -> str:
    files = [*sorted(GUEST.iterdir()), *(SOURCE / f"{name}.py" for name in _BUILDERS)]
    digest = hashlib.sha256(rootfs.requirements().encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _prepare() -> None:
    packages.install_on_this_machine(*packages.PACKAGES)
    with ThreadPoolExecutor() as pool:  # unpacking Debian overlaps with compiling
        waiting = pool.submit(modules)
        rootfs.debian()
        waiting.result()
    if not SSH_KEY.exists():
        command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", SSH_KEY])


def _make(folder: Path) -> None:
    kernel = modules()
    root = folder / "root"
    root.mkdir()
    rootfs.root(root, kernel, SSH_KEY)
    disk.root_disk(root, folder / "base.qcow2")
    disk.initrd(kernel, folder / "initrd", folder / "initrd.cpio")
    command(["cp", kernel / "vmlinux", folder / "vmlinux"])
    command(["rm", "-rf", root, folder / "initrd"])
    say("disk image made; booting a host for the template")
    with ThreadPoolExecutor(1) as thread:  # a thread of its own, because it enters a network namespace
        thread.submit(make_template, folder).result()
