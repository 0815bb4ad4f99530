"""The connection to one storage's Ceph: calls into librados and librbd, in threads of its own, each within a bound.

A full, stopped or fenced cluster would keep a call for ever. Two bounds keep it from that: librados gives up on a mon
or an OSD after the storage's time-out (`rados_mon_op_timeout`, `rados_osd_op_timeout`), and nobody waits for a call of
many such operations longer than LIMIT. The threads are few, so a cluster that hangs cannot use up the node's.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.storage.rbd import binding
from holdfast.agent.storage.rbd.access import Access

TIMEOUT = 15.0
"""Seconds for a mon or an OSD to answer one operation."""
LIMIT = 90.0
"""Seconds for a call; one that rolls back or removes an image, of which there are as many operations as objects, has
LIMIT_OF_ALL."""
LIMIT_OF_ALL = 3600.0
THREADS = 6

Outcome = TypeVar("Outcome")


class Pool:
    """An open pool and namespace, as a call sees it; used by one thread."""

    def __init__(self, connection: Any, io: Any) -> None:
        self.connection = connection
        self.io = io
        self.fsid = str(connection.get_fsid())
        self.id = int(io.get_pool_id())
        self.rados, self.rbd = binding.rados(), binding.rbd()

    @property
    def new_clones(self) -> bool:
        """Whether a snapshot needs no protection to be cloned, as librbd decides (`rbd_default_clone_format`).

        Raises VolumesError where the mons do not say what they require of clients.
        """
        wanted = str(self.connection.conf_get("rbd_default_clone_format"))
        if wanted != "auto":
            return wanted == "2"
        required = self.mon("osd get-require-min-compat-client").decode().strip()
        return required != "unknown" and required >= "mimic"  # releases go by the alphabet

    def mon(self, prefix: str, /, **arguments: object) -> bytes:
        """What the mons answer to a command. Raises VolumesError where they refuse it."""
        code, out, said = self.connection.mon_command(orjson.dumps({"prefix": prefix, **arguments}).decode(), b"")
        if code:
            raise VolumesError(
                f"ceph {prefix} was refused ({code}): {said}; the key needs the caps that docs/rbd.md names."
            )
        return bytes(out)


class _Connection:
    """A connection and how many threads use it. It is shut down by the last of them: a call that is under way on one
    that has been shut down never ends, whatever its time-out."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.users = 0
        self.retired = False

    def end_if_unused(self) -> None:
        """Shut it down if it is wanted no more and nobody uses it."""
        if self.retired and not self.users:
            self.handle.shutdown()


class Cluster:
    """Connects when it is first asked, and again after the node was fenced or the connection failed."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._threads = self._new_threads()
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    async def call(self, what: str, work: Callable[[Pool], Outcome], limit: float = LIMIT) -> Outcome:
        """Run blocking work on the pool. Raises what the work refuses, or VolumesError that tells `what` failed."""
        try:
            async with asyncio.timeout(limit):
                return await self.start(what, work)
        except TimeoutError:
            self._leave_behind()
            raise VolumesError(f"{what}: {self.access} did not end it within {limit:.0f} s.") from None

    def start(self, what: str, work: Callable[[Pool], Outcome]) -> asyncio.Future[Outcome]:
        """Begin a call, for whoever will not wait for it to end."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._run, what, work)

    def close(self) -> None:
        """Let go of the connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._retire()

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, f"rbd-{self.access.storeid}")

    def _leave_behind(self) -> None:
        """What hangs may do so for ever, and keeps a thread and a connection; those to come shall have others."""
        self._threads.shutdown(wait=False)
        self._threads = self._new_threads()
        self._threads.submit(self._let_go)  # not here: who connects holds the lock meanwhile

    def _let_go(self) -> None:
        with self._lock:
            self._retire()

    def _run(self, what: str, work: Callable[[Pool], Outcome]) -> Outcome:
        connection = None
        try:
            connection = self._enter()
            with connection.handle.open_ioctx(self.access.pool) as io:
                io.set_namespace(self.access.namespace)
                return work(Pool(connection.handle, io))
        except (VolumesError, Refused):
            raise
        except Exception as error:  # the bindings' classes: rados.Error and rbd.Error, whose base is Exception
            number = number_of(error)
            if connection is not None and number in (errno.ESHUTDOWN, errno.ENOTCONN):  # it stays dead
                with self._lock:
                    self._retire(connection)
            raise VolumesError(f"{what}: {self._explain(error, number, connected=connection is not None)}") from error
        finally:
            if connection is not None:
                with self._lock:
                    connection.users -= 1
                    connection.end_if_unused()

    def _enter(self) -> _Connection:
        with self._lock:
            if self._connection is None:
                self._connection = _Connection(self._connect())
            self._connection.users += 1
            return self._connection

    def _connect(self) -> Any:
        access, rados = self.access, binding.rados()
        made = rados.Rados(rados_id=access.user, conffile=str(access.conf or "/dev/null"), conf=dict(access.settings))
        try:
            made.connect()
        except BaseException:
            made.shutdown()
            raise
        return made

    def _retire(self, connection: _Connection | None = None) -> None:
        """The next call connects anew. `connection`: only if it is still this one."""
        current = self._connection
        if current is None or (connection is not None and current is not connection):
            return
        self._connection = None
        current.retired = True
        current.end_if_unused()

    def _explain(self, error: Exception, number: int | None, *, connected: bool) -> str:
        """For operators: what is wrong, and what to do next."""
        access = self.access
        if not connected and number not in (errno.ESHUTDOWN, errno.ENOTCONN):
            if number in (errno.EACCES, errno.EPERM):
                return f"{access} refuses the key of client.{access.user}: {self._keyring()}"
            if number in (errno.ENOENT, errno.EIO):
                return f"there is no key for {access} that can be read: {self._keyring()}"
            if number == errno.ETIMEDOUT:
                return f"no mon of {access} answers; look at ceph -s."
        match number:
            case errno.ESHUTDOWN | errno.ENOTCONN:
                return f"this node is blocklisted on {access} (ceph osd blocklist ls): it was fenced."
            case errno.ETIMEDOUT:
                return f"{access} does not answer in time: is it full, or an OSD down? Look at ceph -s."
            case errno.ENOSPC | errno.EDQUOT:
                return f"{access} is full: {error}"
            case errno.EACCES | errno.EPERM:
                return f"client.{access.user} may not do this on {access}; look at its caps with ceph auth get."
            case errno.EBUSY:
                return f"it is in use (a protected snapshot with clones, or an open image): {error}"
            case errno.EROFS:
                return f"another client holds the image's lock and does not give it back: {error}"
        if type(error).__name__ == "ObjectNotFound" and "open_ioctx" not in str(error) and access.pool in str(error):
            return f"pool {access.pool} does not exist on {access}."
        return f"{access}: {error}"

    def _keyring(self) -> str:
        path = dict(self.access.settings).get("keyring")
        return f"the key is read from {path}." if path else "no keyring was found; the configuration decides."


def number_of(error: BaseException) -> int | None:
    """The errno of an error of Ceph's bindings, positive; None if it has none."""
    number = getattr(error, "errno", None)
    return abs(number) if isinstance(number, int) else None
