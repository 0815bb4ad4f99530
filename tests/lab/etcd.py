"""One etcd (Debian's), in the lab's namespace, reached by the hosts and by whoever has entered the namespace."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .daemon import Daemon
from .network import GATEWAY, Network
from .packages import etcd as programs


class Etcd:
    """etcd on 10.77.0.254:2379; its data in `folder` outlast `kill9` and `stop`."""

    endpoint = f"{GATEWAY}:2379"

    def __init__(self, folder: Path, network: Network) -> None:
        self._folder = folder
        self._network = network
        self._process = Daemon(folder / "pid", folder / "etcd.log", mark=f"--data-dir={folder}")

    def start(self, timeout: float = 30.0) -> None:
        """Start it, and wait until it says that it is healthy. Raises RuntimeError when it does not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        client, peer = f"http://{self.endpoint}", f"http://{GATEWAY}:2380"
        options = {
            "name": "lab",
            "data-dir": str(self._folder / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            "auto-compaction-retention": "1h",
        }
        argv = [str(programs() / "etcd"), *(f"--{name}={value}" for name, value in options.items())]
        self._process.start(self._network.command(argv))
        deadline = time.monotonic() + timeout
        while not self._healthy():
            if time.monotonic() > deadline or self._process.pid() is None:
                raise RuntimeError(f"etcd does not come up\n{self._process.last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it properly."""
        self._process.end(signal.SIGTERM)

    def kill9(self) -> None:
        self._process.end(signal.SIGKILL)

    def sigstop(self) -> None:
        """Freeze it; its connections stay."""
        self._process.signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        self._process.signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """etcdctl's output."""
        argv = [str(programs() / "etcdctl"), f"--endpoints={self.endpoint}", *arguments]
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        command = self._network.command(argv)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as reply:
                return bool(json.load(reply)["health"] == "true")
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
