"""A real etcd for tests: one member, or three with TLS, that can be killed, stopped and started one by one."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.coordinator.store.members import Tls

_SAN = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"
START_LIMIT = 20.0  # seconds until a cluster must be healthy


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it while a member is down."""
    while True:
        port = random.randint(15_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def make_certificates(directory: Path) -> Tls:
    """A CA, and one certificate for servers and clients, CN root."""
    ca, key, csr = directory / "ca", directory / "node", directory / "node.csr"
    (directory / "san").write_text(_SAN)
    signed = ["-days", "2", "-out", f"{key}.crt", "-extfile", str(directory / "san")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for argv in (
        ["req", "-x509", *curve, "-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-days", "2", "-subj", "/CN=test-ca"],
        ["req", "-new", *curve, "-keyout", f"{key}.key", "-out", f"{csr}", "-subj", "/CN=root"],
        ["x509", "-req", "-in", f"{csr}", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", *signed],
    ):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    return Tls(Path(f"{ca}.crt"), Path(f"{key}.crt"), Path(f"{key}.key"))


class EtcdCluster:
    """Members 0 to n-1 with fresh data under `directory`."""

    def __init__(self, directory: Path, members: int = 1, *, tls: Tls | None = None) -> None:
        self.tls = tls
        self._directory = directory
        self._clients = [free_port() for _ in range(members)]
        self._peers = [free_port() for _ in range(members)]
        self._children: list[subprocess.Popen[bytes] | None] = [None] * members

    @property
    def endpoints(self) -> list[str]:
        """host:port of each member."""
        return [f"127.0.0.1:{port}" for port in self._clients]

    def start(self, index: int) -> None:
        """Start one member, on its data if it has run before."""
        scheme = "https" if self.tls else "http"
        peers = [f"{scheme}://127.0.0.1:{port}" for port in self._peers]
        client = f"{scheme}://{self.endpoints[index]}"
        argv = ["etcd", "--name", f"m{index}", "--data-dir", str(self._directory / f"m{index}")]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peers[index], "--initial-advertise-peer-urls", peers[index]]
        argv += ["--initial-cluster", ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))]
        argv += ["--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error"]
        if self.tls:
            files = [str(self.tls.certificate), str(self.tls.key), str(self.tls.ca)]
            for side in ("", "peer-"):
                argv += [f"--{side}cert-file", files[0], f"--{side}key-file", files[1]]
                argv += [f"--{side}trusted-ca-file", files[2], f"--{side}client-cert-auth"]
        with (self._directory / f"m{index}.log").open("ab") as log:
            self._children[index] = subprocess.Popen(argv, stdout=log, stderr=log)

    def start_all(self) -> None:
        """Start every member and wait until the cluster answers."""
        for index in range(len(self._children)):
            self.start(index)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until every member that runs answers a read."""
        deadline = time.monotonic() + START_LIMIT
        running = [self.endpoints[i] for i, child in enumerate(self._children) if child]
        while True:
            asked = self._run("endpoint", "health", endpoints=running)
            if asked.returncode == 0:
                return
            if any(child and child.poll() is not None for child in self._children) or time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self._directory.glob("*.log")))
                raise RuntimeError(f"etcd did not start: {asked.stderr.decode()}\n{logs}")
            time.sleep(0.05)

    def kill9(self, index: int) -> None:
        """Kill one member as a power cut does."""
        if child := self._children[index]:
            child.kill()
            child.wait()
            self._children[index] = None

    def stop(self, index: int) -> None:
        """Freeze one member (SIGSTOP): its sockets stay open and nobody answers."""
        self._child(index).send_signal(signal.SIGSTOP)

    def cont(self, index: int) -> None:
        """Let a frozen member go on."""
        self._child(index).send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill and reap whatever still runs."""
        for index in range(len(self._children)):
            self.kill9(index)

    def ctl(self, *args: str) -> Any:
        """Run etcdctl against all members; its JSON answer (None if it prints none)."""
        done = self._run(*args, "-w", "json", endpoints=self.endpoints)
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(args)}: {done.stderr.decode()}")
        with contextlib.suppress(ValueError):
            return json.loads(done.stdout)
        return None

    def metric(self, name: str, index: int = 0) -> float:
        """One plain metric of a member without TLS."""
        with urllib.request.urlopen(f"http://{self.endpoints[index]}/metrics", timeout=5) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise KeyError(name)

    def _child(self, index: int) -> subprocess.Popen[bytes]:
        child = self._children[index]
        assert child is not None, f"member {index} is not running"
        return child

    def _run(self, *args: str, endpoints: list[str]) -> subprocess.CompletedProcess[bytes]:
        argv = ["etcdctl", "--endpoints", ",".join(endpoints), "--command-timeout", "3s"]
        if self.tls:
            argv += ["--cacert", str(self.tls.ca), "--cert", str(self.tls.certificate), "--key", str(self.tls.key)]
        return subprocess.run([*argv, *args], capture_output=True, timeout=30, env={"ETCDCTL_API": "3"} | _path())


def _path() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@contextlib.contextmanager
def running(cluster: EtcdCluster) -> Iterator[EtcdCluster]:
    """The cluster, started; reaped whatever happens."""
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.close()
