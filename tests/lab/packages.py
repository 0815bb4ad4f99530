"""Debian packages: those the lab needs on this machine, and those it only unpacks.

etcd is unpacked rather than installed, because installing it would start a service on a developer's machine.
OpenZFS is in Debian's `contrib`, which a plain machine does not have in its sources: it is fetched with an apt
configuration of the lab's own.
"""

import functools
import os
import shutil
from pathlib import Path

from .cache import CACHE, built, command, say

MIRROR = os.environ.get("HOLDFAST_LAB_MIRROR", "http://deb.debian.org/debian")
SECURITY_MIRROR = os.environ.get("HOLDFAST_LAB_SECURITY_MIRROR", "http://deb.debian.org/debian-security")
SUITE = "bookworm"
PACKAGES = (
    *("qemu-system-x86", "qemu-utils", "mmdebstrap", "busybox-static", "cpio", "e2fsprogs", "kmod", "iproute2"),
    *("iputils-ping", "util-linux", "openssh-client", "debian-archive-keyring", "xfsprogs"),
    *("gcc", "make", "libelf-dev", "libc6-dev", "xz-utils"),
)
_QUIET = ("-qq", "-o", "DPkg::Lock::Timeout=600", "-o", "APT::Sandbox::User=root")


def install_on_this_machine(*packages: str) -> None:
    """Install what is missing of `packages`."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]
    present = {line.split()[0] for line in command(query).splitlines() if line.endswith(" installed")}
    missing = [package for package in packages if package not in present]
    if not missing:
        return
    say(f"installing {' '.join(missing)}")
    install = ["apt-get", *_own_apt(), "install", "-y", "--no-install-recommends", *missing]
    command(["env", "DEBIAN_FRONTEND=noninteractive", *install])


def kernel_version() -> str:
    """The version of the suite's newest kernel, as in `6.1.0-56-amd64`."""
    prefix = "  Depends: linux-headers-"
    for line in command(["apt-cache", *_own_apt(), "depends", "linux-headers-amd64"]).splitlines():
        if line.startswith(prefix):
            return line.removeprefix(prefix)
    raise RuntimeError(f"{MIRROR} offers no linux-headers-amd64: is HOLDFAST_LAB_MIRROR right?")


def unpack(into: Path, *packages: str) -> None:
    """Fetch packages and unpack them under `into`; nothing is installed and no script of theirs runs."""
    debs = into / "debs"
    debs.mkdir(parents=True)
    command(["apt-get", *_own_apt(), "download", *packages], cwd=debs)
    for deb in debs.glob("*.deb"):
        command(["dpkg-deb", "-x", deb, into])
    shutil.rmtree(debs)


def zfs_version() -> str:
    """The version of OpenZFS in the suite, as in `2.1.11-1+deb12u1`."""
    shown = command(["apt-cache", *_own_apt(), "show", "--no-all-versions", "zfs-dkms"])
    return next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:"))


def etcd() -> Path:
    """The folder with Debian's `etcd` and `etcdctl`."""
    return built("etcd", SUITE, lambda folder: unpack(folder, "etcd-server", "etcd-client")) / "usr/bin"


@functools.cache
def _own_apt() -> tuple[str, ...]:
    """Options by which apt uses the lab's sources, refreshed once in this process, and this machine's dpkg."""
    folder = CACHE / "apt"
    options = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
    }
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    (folder / "sources.list").write_text(
        f"deb {signed} {MIRROR} {SUITE} main contrib\n"
        f"deb {signed} {MIRROR} {SUITE}-updates main contrib\n"
        f"deb {signed} {SECURITY_MIRROR} {SUITE}-security main contrib\n"
    )
    argv = (*_QUIET, *(part for name, value in options.items() for part in ("-o", f"{name}={value}")))
    command(["apt-get", *argv, "update"])
    return argv
