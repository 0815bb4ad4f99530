"""A small real Ceph for tests: one mon, one mgr, OSDs on files; each daemon can be killed, frozen and started again.

Every cluster has a loopback address of its own, so several run side by side. It is up in 2 s (memstore) to 5 s
(BlueStore) because all keys are in the mon's seed keyring and paxos proposes at once. What Ceph itself looks at every
5 s (quotas, statistics) it does every second here, and a client that died counts as gone after 6 s instead of
30: one that lives renews its watch every second instead of every 5 s.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALL = Path(__file__).parent / "install.sh"
LIMIT = 60.0  # seconds for any command of the fixture, and for a daemon to answer

_CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:{ip}:3300,v1:{ip}:6789]
mon_initial_members = a
public_addr = {ip}
cluster_addr = {ip}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {dir}/admin.keyring
run_dir = {dir}/run
admin_socket = {dir}/run/$name.asok
pid_file = {dir}/run/$name.pid
log_file = {dir}/log/$name.log
crash_dir = {dir}/log
setuser_match_path =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
osd_failsafe_full_ratio = .99
osd_heartbeat_grace = 4
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
mon_osd_full_ratio = .98
mon_osd_nearfull_ratio = .97
mon_osd_backfillfull_ratio = .975
osd_class_update_on_start = false
mgr_initial_modules =
mgr_tick_period = 1
mgr_stats_period = 1
mon_tick_interval = 1
osd_mon_report_interval = 1
[client]
admin_socket =
log_file =
objecter_tick_interval = 1
rbd_mirror_pool_replayers_refresh_interval = 1
rbd_mirror_image_state_check_interval = 1
[mon]
mon_data = {dir}/mon
[mgr]
mgr_data = {dir}/mgr
keyring = {dir}/mgr/keyring
mgr_pool = false
[osd]
osd_data = {dir}/osd$id
keyring = {dir}/osd$id/keyring
osd_objectstore = {store}
osd_client_watch_timeout = 6
memstore_device_bytes = 2147483648
bluestore_block_size = 10737418240
bluestore_block_create = true
bluestore_block_wal_create = false
bluestore_block_db_create = false
bluestore_fsck_on_mount = false
bluestore_fsck_on_mkfs = false
bluestore_fsck_on_umount = false
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_memory_target = 939524096
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
"""


class CephCluster:
    """One cluster with pool `rbd`. `store`: bluestore survives a kill -9 of its OSD, memstore is faster."""

    def __init__(self, *, store: str = "bluestore", address: str | None = None) -> None:
        self.address = address or free_address()
        self.fsid = str(uuid.uuid4())
        self.directory = Path(tempfile.mkdtemp(prefix="hf-ceph-"))  # short: a unix socket's path has 107 characters
        self.conf = self.directory / "ceph.conf"
        self.keyring = self.directory / "admin.keyring"
        self._store = store
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Make the cluster and wait until pool `rbd` answers."""
        for name in ("mgr", "run", "log", "osd0"):
            (self.directory / name).mkdir()
        self.conf.write_text(_CONF.format(fsid=self.fsid, ip=self.address, dir=self.directory, store=self._store))
        seed = self.directory / "seed.keyring"
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._key(self.keyring, "client.admin", *everything)
        self._key(
            self.directory / "mgr/keyring", "mgr.x", "--cap", "mon", "allow profile mgr", "--cap", "osd", "allow *"
        )
        self._key(seed, "mon.", "--cap", "mon", "allow *")
        for other in (self.keyring, self.directory / "mgr/keyring"):
            self._run("ceph-authtool", str(seed), "--import-keyring", str(other))
        monmap, at = str(self.directory / "monmap"), f"[v2:{self.address}:3300,v1:{self.address}:6789]"
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", at, "--enable-all-features", monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", str(seed), "-c", str(self.conf))
        self.start("mon")
        self.start("mgr")
        self._make_osd()
        self.start("osd")
        self.make_pool("rbd")

    def _make_osd(self) -> None:
        keyring, number = self.directory / "osd0/keyring", str(uuid.uuid4())
        self._key(keyring, "osd.0")
        secret = self._run("ceph-authtool", "-p", "-n", "osd.0", str(keyring)).decode().strip()
        self.ceph("osd", "new", number, "0", "-i", "-", stdin=json.dumps({"cephx_secret": secret}).encode())
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", number, "-c", str(self.conf))

    def make_pool(self, name: str) -> None:
        """A pool for images."""
        self.ceph("osd", "pool", "create", name, "8")
        self.rbd("pool", "init", name)

    def start(self, kind: str) -> None:
        """Start `mon`, `mgr` or `osd`, on its data if it has run before."""
        # bound to us: a test run that is killed leaves no daemon
        argv = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            f"ceph-{kind}",
            "-f",
            "-i",
            {"mon": "a", "mgr": "x", "osd": "0"}[kind],
            "-c",
            str(self.conf),
        ]
        with (self.directory / f"log/{kind}.out").open("ab") as log:
            self._daemons[kind] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill9(self, kind: str) -> None:
        """Kill a daemon as a power cut does."""
        daemon = self._daemons.pop(kind)
        daemon.kill()
        daemon.wait()

    def stop(self, kind: str) -> None:
        """Freeze a daemon: its sockets stay open and nobody answers."""
        self._daemons[kind].send_signal(signal.SIGSTOP)

    def cont(self, kind: str) -> None:
        """Let a frozen daemon go on."""
        self._daemons[kind].send_signal(signal.SIGCONT)

    def repair(self) -> None:
        """Undo whatever a test did to the daemons."""
        for kind in ("mon", "mgr", "osd"):
            if kind in self._daemons:
                self.cont(kind)
            else:
                self.start(kind)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until the OSD takes writes again."""
        deadline = time.monotonic() + LIMIT
        while True:
            done = subprocess.run(
                ["timeout", "2", "rados", "-c", str(self.conf), "-p", "rbd", "put", "alive", "/dev/null"],
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ceph does not take writes: {done.stderr.decode()}\n{self._logs()}")
            time.sleep(0.1)

    def down(self) -> None:
        """Kill what runs, and remove the data."""
        for daemon in self._daemons.values():
            daemon.send_signal(signal.SIGCONT)
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ceph(self, *args: str, stdin: bytes | None = None) -> Any:
        """`ceph ARGS` as the administrator; its JSON, if it printed any."""
        out = self._run("ceph", "-c", str(self.conf), *args, "-f", "json", stdin=stdin)
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(out)
        return out.decode()

    def rbd(self, *args: str, stdin: bytes | None = None) -> bytes:
        """`rbd ARGS` as the administrator."""
        return self._run("rbd", "-c", str(self.conf), *args, stdin=stdin)

    def perf(self) -> dict[str, Any]:
        """The OSD's counters."""
        found: dict[str, Any] = self.ceph("daemon", str(self.directory / "run/osd.0.asok"), "perf", "dump")
        return found

    def add_key(self, name: str, *caps: str) -> Path:
        """The keyring of a new user `client.NAME`; `caps` as for ceph auth add."""
        path = self.directory / f"{name}.keyring"
        self._run("ceph", "-c", str(self.conf), "auth", "get-or-create", f"client.{name}", *caps, "-o", str(path))
        return path

    def _key(self, path: Path, name: str, *caps: str) -> None:
        self._run("ceph-authtool", "-C", str(path), "--gen-key", "-n", name, *caps)

    def _run(self, *argv: str, stdin: bytes | None = None) -> bytes:
        try:
            done = subprocess.run(argv, input=stdin or b"", capture_output=True, timeout=LIMIT, check=False, env=_ENV)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{' '.join(argv)} hangs\n{self._logs()}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise RuntimeError(f"{' '.join(argv)} failed with {done.returncode}: {said}")
        return done.stdout

    def _logs(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in self.directory.glob("log/*"))


_ENV = {key: value for key, value in os.environ.items() if not key.startswith("CEPH_")}


def free_address() -> str:
    """A loopback address on which no other cluster's mon listens."""
    while True:
        address = f"127.{random.randint(10, 250)}.{random.randint(1, 250)}.{random.randint(2, 250)}"
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((address, 3300))
            return address


@contextlib.contextmanager
def ceph_running(*, store: str = "bluestore", address: str | None = None) -> Iterator[CephCluster]:
    """A cluster that is gone after the block, whatever happens in it."""
    subprocess.run([str(INSTALL)], check=True, timeout=600)
    cluster = CephCluster(store=store, address=address)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
