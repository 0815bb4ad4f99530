"""Hypervisors in network namespaces: each is on as many networks as it joins, and every link can be cut."""

import os
import random
import subprocess
from itertools import count

_numbers = count()


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


class Link:
    """Of one namespace to one network."""

    def __init__(self, name: str, address: str) -> None:
        self.address = address
        self._name = name

    def cut(self) -> None:
        """At the switch: the hypervisor still has its address, and nothing comes through."""
        ip("link", "set", self._name, "down")

    def heal(self) -> None:
        ip("link", "set", self._name, "up")


class Namespace:
    """One hypervisor."""

    def __init__(self) -> None:
        self.name = f"hf-hv-{os.getpid()}-{next(_numbers)}"
        self._devices = 0

    @property
    def command(self) -> tuple[str, ...]:
        """What runs a command in it; that has mounts of its own."""
        return ("ip", "netns", "exec", self.name)

    def up(self) -> None:
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    def down(self) -> None:
        """Its links go with it."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def join(self, network: "Network") -> Link:
        """Plug it in."""
        device, self._devices = f"e{self._devices}", self._devices + 1
        link = Link(f"hfl{os.getpid() % 100000}-{next(_numbers)}", network.address())
        ip("link", "add", link._name, "type", "veth", "peer", "name", device, "netns", self.name)
        ip("link", "set", link._name, "master", network.bridge, "up")
        ip("-n", self.name, "addr", "add", f"{link.address}/24", "dev", device)
        ip("-n", self.name, "link", "set", device, "up")
        return link


class Network:
    """A bridge, on which this process is as well."""

    def __init__(self) -> None:
        self.bridge = f"hfb{os.getpid() % 100000}-{next(_numbers)}"
        self._net = f"10.{random.randint(100, 250)}.{random.randint(1, 250)}"
        self._hosts = count(1)

    def address(self) -> str:
        """One that nobody has yet."""
        return f"{self._net}.{next(self._hosts)}"

    def up(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")

    def down(self) -> None:
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)

    def add_here(self) -> str:
        """An address of this machine on it, for what is to be reached from there."""
        address = self.address()
        ip("addr", "add", f"{address}/24", "dev", self.bridge)
        return address
