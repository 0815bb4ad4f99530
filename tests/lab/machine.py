"""One QEMU process: its command line, its monitor, its death."""

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from .daemon import Daemon
from .network import Network

MEMORY_MIB = 1024
DATA_DISKS = 2
DATA_DISK_BYTES = 4 << 30
PERSIST_BYTES = 1 << 30
_ACCEL = "tcg,thread=multi,tb-size=256"
# qemu64 hashes 2 to 3 times faster than `max` under emulation.
_CPU = "qemu64"


def exec_port(number: int) -> int:
    """The port on the namespace's loopback that leads to host `number`'s exec channel."""
    return 5000 + number


def ssh_port(number: int) -> int:
    """The port on the namespace's loopback that leads to host `number`'s sshd."""
    return 2200 + number


class Machine:
    """The QEMU of host `number`, with its files in `folder` (disks, sockets, console log, pid).

    The disks are raw files, written with cache=unsafe: that skips fsync on the real disk, yet what QEMU has written
    is in the real kernel's page cache and outlives QEMU's death. So killing QEMU is a power cut: the emulated
    machine's memory is gone, all that it had handed to its disks is there.
    """

    def __init__(self, number: int, folder: Path, network: Network) -> None:
        self.number = number
        self.folder = folder
        self._network = network
        self.process = Daemon(folder / "pid", folder / "qemu.log", mark=str(folder / "monitor"))

    @property
    def serial_socket(self) -> Path:
        """The outer end of the host's /dev/ttyS1."""
        return self.folder / "ttyS1"

    def start(self, kernel: Path, initrd: Path, extra: Sequence[str] = ()) -> None:
        """Start QEMU; it boots, or with `-incoming` in `extra` restores a machine's state."""
        self.process.start(self._network.command(self._argv(kernel, initrd, extra)))

    def runs(self) -> bool:
        """Whether there is a QEMU."""
        return self.process.pid() is not None

    def kill(self) -> None:
        """Kill -9, and wait until the process is gone."""
        self.process.end()

    def check(self) -> None:
        """Raises RuntimeError with QEMU's last words where it does not run."""
        if not self.runs():
            raise RuntimeError(f"host {self.number}: QEMU ended\n{self.process.last_words()}")

    def monitor(self, execute: str, **arguments: object) -> object:
        """One QMP command; returns its result. Raises RuntimeError where QEMU refuses it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.folder / "monitor"))
            with connection.makefile("rw") as stream:
                stream.readline()
                for command in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                    stream.write(json.dumps(command) + "\n")
                    stream.flush()
                    reply = json.loads(stream.readline())
                    while "event" in reply:
                        reply = json.loads(stream.readline())
                    if "error" in reply:
                        raise RuntimeError(f"host {self.number}: {execute}: {reply['error']['desc']}")
        return reply["return"]

    def save(self, state: Path) -> None:
        """Write the machine's memory and devices to `state`, and end it; the disks stay as they then were."""
        self.monitor("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.monitor("migrate", uri=f"exec:cat >{state}")
        while True:
            info = self.monitor("query-migrate")
            assert isinstance(info, dict)
            if info["status"] == "completed":
                break
            if info["status"] == "failed":
                raise RuntimeError(f"saving the machine's state failed: {info}")
            time.sleep(0.1)
        self.monitor("quit")
        self.process.wait()

    def _argv(self, kernel: Path, initrd: Path, extra: Sequence[str]) -> list[str]:
        n, folder = self.number, self.folder
        cmdline = (
            "console=ttyS0 loglevel=3 nokaslr mitigations=off no_timer_check audit=0 apparmor=0 random.trust_cpu=on"
            f" net.ifnames=0 panic=1 labhost={n}"
        )
        forward = f"hostfwd=tcp:127.0.0.1:{exec_port(n)}-:5000,hostfwd=tcp:127.0.0.1:{ssh_port(n)}-:22"
        options = {
            "name": f"holdfast-host{n}",
            "machine": "q35",
            "accel": _ACCEL,
            "cpu": _CPU,
            "smp": "1",
            "m": str(MEMORY_MIB),
            "display": "none",
            "qmp": f"unix:{folder / 'monitor'},server=on,wait=off",
            "kernel": str(kernel),
            "initrd": str(initrd),
            "append": cmdline,
            "action": "watchdog=reset",
        }
        argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config"]
        for option, value in options.items():
            argv += [f"-{option}", value]
        argv += ["-serial", f"file:{folder / 'console.log'}"]
        argv += ["-serial", f"unix:{self.serial_socket},server=on,wait=off"]
        disks = ["file=root.qcow2,format=qcow2"]
        disks += [f"file=data{i}.raw,format=raw,discard=unmap" for i in range(1, DATA_DISKS + 1)]
        disks += ["file=persist.raw,format=raw"]
        for index, disk in enumerate(disks):
            argv += ["-drive", f"{disk.replace('file=', f'file={folder}/')},if=none,id=disk{index},cache=unsafe"]
            argv += ["-device", f"virtio-blk-pci,drive=disk{index},serial=disk{index}"]
        # The control network has the same addresses in every host: each has a private one, as a restored machine
        # that later resets itself still answers to the template's.
        argv += ["-netdev", f"user,id=control,restrict=on,{forward}"]
        argv += ["-device", "virtio-net-pci,netdev=control,mac=52:54:00:00:00:01,romfile="]
        argv += ["-netdev", f"tap,id=lan,ifname=tap{n},script=no,downscript=no"]
        argv += ["-device", f"virtio-net-pci,id=lan-card,netdev=lan,mac=52:54:00:77:00:{n:02x},romfile="]
        argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        argv += ["-device", "i6300esb"]
        return [*argv, *extra]
