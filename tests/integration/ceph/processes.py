"""The agents as they are installed: processes of their own, killed as a power cut does it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from integration.ceph.site import Site
from integration.etcd_cluster import free_port


class Process:
    """`holdfast-agent` of one node."""

    def __init__(self, site: Site, node: str, command: tuple[str, ...] = (), **more: Any) -> None:
        """`command`: what it is run by. `more`: other settings than the usual ones."""
        self._folder = site.directory / node
        self._config = self._folder / "agent.yaml"
        self._command = command
        settings = {
            "node": node,
            "listen": "127.0.0.1",
            "transfer_port": site.ports[node],
            "api_port": free_port(),
            "socket": str(self._folder / "agent.sock"),
            "cluster": site.keys.cluster,
            "endpoints": [f"http://{endpoint}" for endpoint in site.endpoints],
            "state": str(self._folder / "state"),
            "ceph_keys": str(self._folder / "keys"),
            "ceph_conf": "/nonexistent",
            "pause": 20,
        }
        self._config.write_bytes(orjson.dumps(settings | more))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        agent = [str(Path(sys.executable).parent / "holdfast-agent"), "--config", str(self._config)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*self._command, *agent], stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """AssertionError if it has ended, which nobody asked it to."""
        assert self._process is not None
        assert self._process.poll() is None, f"the agent ended with {self._process.poll()}: {self.log()[-3000:]}"

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Stop it as systemd does; its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return (self._folder / "log").read_text()


@contextlib.contextmanager
def agents(site: Site) -> Iterator[dict[str, Process]]:
    started: dict[str, Process] = {}
    try:
        for node in site.ports:
            started[node] = Process(site, node)
        yield started
        assert [process.end() for process in started.values()] == [0, 0]
    finally:
        for process in started.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill9()
