"""The hosts' root: Debian, the lab's own init, and the libraries that Holdfast runs on."""

import hashlib
import os
import shutil
from pathlib import Path

from .cache import CHECKOUT, GUEST, built, command, discard_old
from .packages import MIRROR, SECURITY_MIRROR, SUITE

PACKAGES = (
    *("udev", "kmod", "procps", "psmisc", "iproute2", "iputils-ping", "netbase", "ca-certificates", "python3"),
    *("zfsutils-linux", "openssh-server", "util-linux", "socat", "strace"),
    *("ceph-common", "python3-rados", "python3-rbd"),
)
_DRAFTS = ["usr/share/man", "usr/share/locale", "usr/share/doc", "usr/share/info"]
_SCRIPTS = {"lab-init": "usr/local/sbin", "lab-identity": "usr/local/sbin", "lab-exec": "usr/local/sbin",
            "holdfast": "usr/local/bin", "holdfast-agent": "usr/local/bin",
            "holdfast-coordinator": "usr/local/bin"}  # fmt: skip


def debian() -> Path:
    """Plain Debian with the packages of a host; kept by the list of packages."""
    key = hashlib.sha256(" ".join([SUITE, *PACKAGES]).encode()).hexdigest()[:12]
    folder = built("debian", key, _debian) / "root"
    discard_old("debian", keep=1)
    return folder


def requirements() -> str:
    """Holdfast's locked runtime dependencies, as pip reads them."""
    return command([*_uv(), "export", "--frozen", "--no-dev", "--no-emit-project", "-q"], cwd=CHECKOUT)


def root(folder: Path, modules: Path, ssh_key: Path) -> None:
    """Fill `folder` with a host's whole root."""
    command(["cp", "-a", "--reflink=auto", f"{debian()}/.", folder])
    (folder / "usr/lib/modules").mkdir(exist_ok=True)
    command(["cp", "-a", *(modules / "lib/modules").iterdir(), folder / "usr/lib/modules"])
    for script, place in _SCRIPTS.items():
        shutil.copy(GUEST / script, folder / place / script)
        (folder / place / script).chmod(0o755)
    shutil.copy(GUEST / "holdfast.pth", folder / "usr/lib/python3/dist-packages")
    for mount_point in ("persist", "var/lib/holdfast", "etc/holdfast", "var/log/holdfast", "opt/holdfast/src"):
        (folder / mount_point).mkdir(parents=True)
    (folder / "etc/fstab").write_text("")
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n" + "".join(f"10.77.0.{n} host{n}\n" for n in range(1, 10)))
    (folder / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(ssh_key.with_suffix(".pub"), folder / "root/.ssh/authorized_keys")
    _install_libraries(folder)


def _debian(folder: Path) -> None:
    exclude = [f"--dpkgopt=path-exclude=/{draft}/*" for draft in _DRAFTS]
    command(
        ["mmdebstrap", "--mode=root", "--variant=minbase", "--components=main,contrib",
         f"--include={','.join(PACKAGES)}",
         *exclude, '--aptopt=Acquire::Languages "none"', SUITE, folder / "root", f"deb {MIRROR} {SUITE} main contrib",
         f"deb {MIRROR} {SUITE}-updates main contrib", f"deb {SECURITY_MIRROR} {SUITE}-security main contrib"],
        folder / "build.log",
    )  # fmt: skip


def _install_libraries(folder: Path) -> None:
    site = folder / "opt/holdfast/site"
    command(
        [*_uv(), "pip", "install", "-q", "--target", site, "--python-version", "3.11", "--python-platform",
         "x86_64-manylinux_2_28", "--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", "-"],
        stdin=requirements(),
    )  # fmt: skip
    # By the hosts' own Python, whose byte code it must be; it prints what does not compile (tests of old syntax).
    command(["chroot", folder, "python3", "-m", "compileall", "-q", "-j2", "/opt/holdfast/site"])


def _uv() -> list[str]:
    return os.environ.get("UV", "uv").split()
