"""One virtual host: run scripts in it, cut its power, its links, crash it."""

import importlib.util
import io
import py_compile
import shlex
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import exec_trace
from .build import Image
from .cache import CHECKOUT
from .exec_channel import ExecChannel, HostSilent, Result, ScriptFailed
from .machine import Machine, exec_port
from .network import GATEWAY, NOWHERE, Network, address
from .process import HostProcess
from .template import make_disks, make_root

POOL = "tank"
POOL_DISK = "/dev/vdb"
CODE = ("agent", "coordinator", "proto")


# What `spawn` started, and what that started, is known by its environment.
_TIDY = """
for environ in $(grep -lsz '^HOLDFAST_LAB_PROCESS=' /proc/[1-9]*/environ); do
    pid=${environ#/proc/}; kill -KILL ${pid%/environ} 2>/dev/null
done
rm -rf /var/lib/holdfast/* /etc/holdfast/* /var/log/holdfast/*
for pool in $(zpool list -H -o name); do
    # What was killed may hold a volume open a moment longer.
    for i in $(seq 50); do ! zpool destroy -f $pool 2>/dev/null || continue 2; sleep 0.2; done
    zpool destroy -f $pool || exit 1
done
"""


class Host:
    """Host `number` of a lab.

    What outlasts a power cut: the data disks (/dev/vdb, /dev/vdc) with their pools, /var/lib/holdfast, /etc/holdfast,
    /var/log/holdfast, and the deployed code. The rest of the root is the template's again.
    """

    def __init__(self, number: int, folder: Path, image: Image, network: Network) -> None:
        self.number = number
        self.name = f"host{number}"
        self.address = address(number)
        self.machine = Machine(number, folder, network)
        self._image = image
        self._network = network
        self._channel = ExecChannel(exec_port(number))
        self._cuts: set[str] = set()

    def __repr__(self) -> str:
        return self.name

    # --- scripts and files

    def run(self, script: str, *, timeout: float = 120.0, stdin: bytes | Path = b"", check: bool = True) -> str:
        """Run a bash script (`set -e` is yours to say) and return its stdout.

        Raises ScriptFailed on another exit status than 0, unless `check` is false; HostSilent without an answer.
        `timeout` is in seconds, and kills the script.
        """
        result = self.result(script, timeout=timeout, stdin=stdin)
        if check and result.status != 0:
            output = (result.stdout + result.stderr).decode(errors="replace")[-4000:]
            raise ScriptFailed(f"{self.name}: exit status {result.status} of\n{script}\n{output}")
        return result.stdout.decode(errors="replace")

    def result(self, script: str, *, timeout: float = 120.0, stdin: bytes | Path = b"") -> Result:
        """As `run`, but returns exit status, stdout and stderr, whatever they are."""
        return self._channel.run(script, stdin=stdin, timeout=timeout)

    def spawn(self, command: str, name: str) -> HostProcess:
        """Start a command in the background, its output appended to /var/log/holdfast/`name`.log."""
        return HostProcess.start(self.result, command, name)

    def put(self, content: bytes | str | Path, path: str, mode: int = 0o644) -> None:
        """Write a file in the host: bytes, text, or a local file's content."""
        data = content.encode() if isinstance(content, str) else content
        quoted = shlex.quote(path)
        self.run(f"set -e; mkdir -p $(dirname {quoted}); cat >{quoted}; chmod {mode:o} {quoted}", stdin=data)

    def get(self, path: str) -> bytes:
        """A file's content."""
        result = self.result(f"cat {shlex.quote(path)}")
        if result.status != 0:
            raise ScriptFailed(f"{self.name}: {result.stderr.decode()}")
        return result.stdout

    def deploy(self) -> None:
        """Put the checkout's agent, coordinator and proto there, compiled (starting up is slow enough)."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for folder in CODE:
                for path in sorted((CHECKOUT / folder).rglob("*")):
                    if path.is_file() and "__pycache__" not in path.parts:
                        name = f"holdfast/{path.relative_to(CHECKOUT)}"
                        tar.add(path, name)
                        _add_byte_code(tar, path, name)
        place = "/opt/holdfast/src"
        self.run(f"set -e; rm -rf {place}/holdfast; tar -C {place} -x; sync -f {place}", stdin=archive.getvalue())

    def zpool_create(self, pool: str = POOL, disk: str = POOL_DISK) -> None:
        """A new, empty pool on a disk; one of that name, and what it held, is destroyed."""
        self.run(
            f"""set -e
            ! zpool list -H {pool} >/dev/null 2>&1 || zpool destroy -f {pool}
            wipefs -qa {disk}1 {disk} 2>/dev/null || true
            zpool create -f -O mountpoint=/{pool} -O compression=lz4 -O atime=off {pool} {disk}"""
        )

    def reset(self) -> None:
        """As new for a test: on, its links whole, nothing of Holdfast running or kept, an empty pool `tank`."""
        if not self.machine.runs():
            self.power_on()
        self.link_up()
        self.heal_all()
        self.run(_TIDY)
        self.zpool_create()

    # --- faults

    def power_cut(self) -> None:
        """Kill QEMU: the host's memory is lost, what it had written to its disks is kept."""
        self.machine.kill()

    def power_on(self, timeout: float = 60.0) -> None:
        """Start from the template, over the disks that are there; returns when pools are imported. Cuts stay."""
        self.machine.kill()
        (self.machine.folder / "root.qcow2").unlink(missing_ok=True)
        make_root(self.machine.folder, self._image.root)
        extra = ["-incoming", f"exec:cat {self._image.state}"]
        self.machine.start(self._image.kernel, self._image.initrd, extra)
        self._wait(timeout, refresh=True)
        self.run(f"lab-identity {self.number}", timeout=timeout)
        for peer in self._cuts:
            self._misdirect(peer)

    def crash(self, timeout: float = 120.0) -> None:
        """Panic the kernel; it restarts a second later and boots as hosts do. Returns when it has; cuts stay."""
        # The reply never comes; the kernel is gone before bash could say anything.
        self._channel.send("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        deadline = time.monotonic() + timeout
        time.sleep(2)
        while True:
            try:
                self._wait(timeout)
                if self.result("test -e /run/lab/number", timeout=10).status == 0:
                    break
            except HostSilent:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)
        for peer in self._cuts:
            self._misdirect(peer)

    def link_down(self) -> None:
        """Pull the LAN cable; scripts still run, by the control network."""
        self.machine.monitor("set_link", name="lan-card", up=False)

    def link_up(self) -> None:
        """Plug the LAN cable in."""
        self.machine.monitor("set_link", name="lan-card", up=True)

    def cut(self, peer: "Host") -> None:
        """Lose everything between this host and `peer`, both ways, silently."""
        self._cut(peer.address)
        peer._cut(self.address)

    def heal(self, peer: "Host") -> None:
        """Undo `cut`."""
        self._heal(peer.address)
        peer._heal(self.address)

    def cut_from_etcd(self) -> None:
        """Lose everything between this host and the namespace (etcd, the command line), both ways, silently."""
        self._network.misdirect(self.number)
        self._cut(GATEWAY)

    def heal_to_etcd(self) -> None:
        """Undo `cut_from_etcd`."""
        self._network.direct(self.number)
        self._heal(GATEWAY)

    def heal_all(self) -> None:
        """Undo every cut that this host's end knows of."""
        for peer in list(self._cuts):
            self._heal(peer)

    # --- figures

    @contextmanager
    def count_execs(self) -> Iterator[exec_trace.Counts]:
        """Count by name the programs that start in the host; the counts are there when the block ends."""
        with exec_trace.counting(self.run) as counts:
            yield counts

    def _cut(self, peer: str) -> None:
        self._cuts.add(peer)
        self._misdirect(peer)

    def _misdirect(self, peer: str) -> None:
        self.run(f"ip neigh replace {peer} lladdr {NOWHERE} dev lan nud permanent")

    def _heal(self, peer: str) -> None:
        self._cuts.discard(peer)
        self.run(f"ip neigh del {peer} dev lan", check=False)

    def _wait(self, timeout: float, *, refresh: bool = False) -> None:
        try:
            self._channel.wait(timeout, refresh=refresh)
        except HostSilent:
            self.machine.check()
            raise


def create(number: int, folder: Path, image: Image, network: Network) -> Host:
    """A host with new, blank disks, not yet switched on."""
    folder.mkdir(parents=True)
    network.add_tap(number)
    make_disks(folder, image.root)
    return Host(number, folder, image, network)


def _add_byte_code(tar: tarfile.TarFile, path: Path, name: str) -> None:
    # Hosts run Python 3.11. Another version here: they compile for themselves, at the first import.
    if path.suffix != ".py" or importlib.util.MAGIC_NUMBER != b"\xa7\r\r\n":
        return
    with tempfile.NamedTemporaryFile(suffix=".pyc") as compiled:
        py_compile.compile(str(path), cfile=compiled.name, dfile=f"/opt/holdfast/src/{name}", doraise=True)
        tar.add(compiled.name, importlib.util.cache_from_source(name))
