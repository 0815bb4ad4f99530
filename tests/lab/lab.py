"""A lab: hosts on one LAN, and an etcd beside them. See README.md for how to use it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from . import host as hosts
from .build import Image, build
from .cache import CACHE, locked, say
from .etcd import Etcd
from .host import Host
from .machine import Machine
from .network import Network

NAME = os.environ.get("HOLDFAST_LAB_NAME", "dev")


class Lab:
    """The lab of a name. Several run side by side under different names.

    Only a process that has called `enter` reaches the hosts.
    """

    def __init__(self, name: str = NAME) -> None:
        if not name.isidentifier() or len(name) > 40:
            raise ValueError(f"a lab's name is letters, digits and underscores, at most 40: {name!r}")
        self.name = name
        self.network = Network(name)
        self.folder = CACHE / "run" / name
        self.etcd = Etcd(self.folder / "etcd", self.network)
        self.hosts: list[Host] = []

    @property
    def netns(self) -> str:
        """The name of its network namespace."""
        return self.network.name

    def up(self, count: int = 2, pools: bool = True) -> None:
        """Build what is missing, then start `count` hosts with blank disks, each with a pool `tank` on /dev/vdb
        unless `pools` is false. A lab of this name that runs, or was left behind, is taken down before."""
        if os.geteuid() != 0:
            raise RuntimeError("the lab makes network namespaces and disk images: run it as root")
        image = build()
        with locked(f"lab-{self.name}"):
            self._down()
            self.folder.mkdir(parents=True)
            self.network.create()
            self.network.enter()
            self.hosts = [hosts.create(n, self.folder / f"host{n}", image, self.network) for n in range(1, count + 1)]
            (self.folder / "image").symlink_to(image.folder)
            self._each(Host.power_on)
            if pools:
                self._each(Host.zpool_create)
        say(f"{count} hosts are up in the namespace {self.netns}")

    def attach(self) -> None:
        """Use the lab that another process has brought up. Raises RuntimeError where there is none."""
        if not self.network.exists() or not (self.folder / "image").exists():
            raise RuntimeError(f"no lab {self.name!r} is up: run `make lab-up` (HOLDFAST_LAB_NAME names another one)")
        image = Image((self.folder / "image").resolve())
        folders = sorted(self.folder.glob("host*"))
        self.hosts = [Host(int(f.name.removeprefix("host")), f, image, self.network) for f in folders]
        self.network.enter()

    def down(self) -> None:
        """Stop everything and remove everything of this lab: processes, namespace, disks."""
        with locked(f"lab-{self.name}"):
            self._down()

    def enter(self) -> None:
        """Move this thread (and what it starts) into the lab's network."""
        self.network.enter()

    def start_etcd(self) -> None:
        """An etcd on 10.77.0.254:2379, with the data of the one before."""
        self.etcd.start()

    def stop_etcd(self) -> None:
        self.etcd.stop()

    def kill9_etcd(self) -> None:
        self.etcd.kill9()

    def run_in_netns(self, argv: Sequence[str], timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the lab's network."""
        return subprocess.run(self.network.command(argv), capture_output=True, text=True, timeout=timeout, check=False)

    def reset(self) -> None:
        """Make every host as new for a test: on, links whole, no agent or writer left, an empty pool `tank`."""
        self._each(Host.reset)

    def _each(self, action: Callable[[Host], None]) -> None:
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(action, self.hosts))

    def _down(self) -> None:
        for host in self.hosts:
            host.power_cut()
        for folder in self.folder.glob("host*"):  # another process's
            Machine(int(folder.name.removeprefix("host")), folder, self.network).kill()
        self.etcd.kill9()
        self.network.delete()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.hosts = []
