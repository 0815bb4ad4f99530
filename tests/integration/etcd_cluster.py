"""A real etcd for tests: one member, or three with TLS, that can be killed, stopped and started one by one."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from holdfast.coordinator.store.tls import Tls

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
START_LIMIT = 20.0  # seconds until a cluster must be healthy


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it while a member is down."""
    while True:
        port = random.randint(15_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Authority:
    """A CA in `directory`, and what it issues."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        directory.mkdir(exist_ok=True)
        self._ca = directory / "ca"
        out = ["-keyout", f"{self._ca}.key", "-out", f"{self._ca}.crt", "-days", "2", "-subj", f"/CN={name}"]
        self._openssl("req", "-x509", *_CURVE, *out)

    def issue(self, name: str, *, san: str = "IP:127.0.0.1,DNS:localhost", days: int = 2, file: str = "") -> Tls:
        """A certificate for servers and clients, CN `name`; `days` below 0: it has expired."""
        at = self._ca.with_name(file or name)
        (extensions := Path(f"{at}.ext")).write_text(f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", "-new", *_CURVE, "-keyout", f"{at}.key", "-out", f"{at}.csr", "-subj", f"/CN={name}")
        by = ["-CA", f"{self._ca}.crt", "-CAkey", f"{self._ca}.key", "-CAcreateserial", "-days", str(days)]
        self._openssl("x509", "-req", "-in", f"{at}.csr", *by, "-out", f"{at}.crt", "-extfile", str(extensions))
        return Tls(Path(f"{self._ca}.crt"), Path(f"{at}.crt"), Path(f"{at}.key"))

    @staticmethod
    def _openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True)


class EtcdCluster:
    """Members 0 to n-1 with fresh data under `directory`."""

    def __init__(
        self,
        directory: Path,
        members: int = 1,
        *,
        tls: Tls | None = None,
        options: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> None:
        """`options`: more of etcd's own, for all members. `address`: where clients find them."""
        self.tls = tls
        self._address = address
        self.auth: str | None = None
        """USER:PASSWORD for `ctl`, once passwords are asked for."""
        self._directory = directory
        self._options = options
        self._clients = [free_port() for _ in range(members)]
        self._peers = [free_port() for _ in range(members)]
        self._children: list[subprocess.Popen[bytes] | None] = [None] * members

    @property
    def endpoints(self) -> list[str]:
        """host:port of each member."""
        return [f"{self._address}:{port}" for port in self._clients]

    def start(self, index: int) -> None:
        """Start one member, on its data if it has run before."""
        scheme = "https" if self.tls else "http"
        peers = [f"{scheme}://127.0.0.1:{port}" for port in self._peers]
        client = f"{scheme}://{self.endpoints[index]}"
        argv = ["etcd", "--name", f"m{index}", "--data-dir", str(self.data(index))]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peers[index], "--initial-advertise-peer-urls", peers[index]]
        argv += ["--initial-cluster", ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))]
        argv += ["--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error"]
        argv += self._options
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

    def data(self, index: int = 0) -> Path:
        """Where a member keeps everything; to be copied only while it does not run."""
        return self._directory / f"m{index}"

    def leader(self) -> int:
        """The member that leads etcd."""
        return next(
            index
            for index, status in enumerate(self.ctl("endpoint", "status"))
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"]
        )

    def enable_auth(self, **roles: str) -> None:
        """Ask for passwords: root:secret, and USER:secret with rights on one prefix for each USER=PREFIX."""
        self.ctl(*["role", "add", "root"])
        self.ctl(*["user", "add", "root:secret"])
        self.ctl(*["user", "grant-role", "root", "root"])
        for name, prefix in roles.items():
            self.ctl("role", "add", name)
            self.ctl("role", "grant-permission", name, "--prefix=true", "readwrite", prefix)
            self.ctl("user", "add", f"{name}:secret")
            self.ctl("user", "grant-role", name, name)
        self.ctl("auth", "enable")
        self.auth = "root:secret"

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
        if self.auth:
            argv += ["--user", self.auth]
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
