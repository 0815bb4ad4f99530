"""A real etcd as `holdfast init` says that it is to be set up: TLS, client certificates, users and roles."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from integration.etcd_cluster import free_port

COMMAND = Path(sys.executable).parent / "holdfast"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class SecuredCluster:
    """One member, the first machine's folder, and the command line."""

    folder: Path
    endpoint: str

    def run(self, *args: str, folder: Path | None = None, stdin: str = "") -> Done:
        """`holdfast ARGS`, in a process of its own, with its folder in the environment."""
        environment = {**os.environ, "HOLDFAST_DIR": str(folder or self.folder)}
        done = subprocess.run(
            [COMMAND, *args], env=environment, input=stdin, capture_output=True, text=True, timeout=60
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *args: str, folder: Path | None = None, stdin: str = "") -> str:
        done = self.run(*args, folder=folder, stdin=stdin)
        assert done.returncode == 0, done
        return done.stdout


def init(cluster: SecuredCluster, *more: str) -> Done:
    return cluster.run("init", "pve1", "--address", "127.0.0.1", "--endpoint", f"https://{cluster.endpoint}", *more)


def environment_from(message: str, endpoint: str, peer: str) -> Mapping[str, str]:
    """The settings that were printed, on the test's own ports."""
    found = dict(re.findall(r"^  (ETCD_[A-Z_]+)=(.*)$", message, re.M))
    moved = {
        key: value.replace("127.0.0.1:2379", endpoint).replace("127.0.0.1:2380", peer) for key, value in found.items()
    }
    return {**moved, "ETCD_INITIAL_CLUSTER": f"pve1=https://{peer}"}


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[SecuredCluster]:
    """A cluster after `holdfast init`."""
    cluster = SecuredCluster(folder / "pve1", f"127.0.0.1:{free_port()}")
    first = init(cluster)
    assert first.returncode == 1, first
    settings = environment_from(first.stderr, cluster.endpoint, f"127.0.0.1:{free_port()}")
    data = {"ETCD_DATA_DIR": str(folder / "etcd"), "ETCD_LOG_LEVEL": "error"}
    with (folder / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen(["etcd"], env={**os.environ, **settings, **data}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while (second := init(cluster)).returncode != 0:
            assert time.monotonic() < deadline, (second, (folder / "etcd.log").read_text()[-2000:])
            assert etcd.poll() is None, (folder / "etcd.log").read_text()[-2000:]
        yield cluster
    finally:
        etcd.kill()
        etcd.wait()
