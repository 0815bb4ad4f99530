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

    def __init__(self, io: Any, fsid: str) -> None:
        self.io = io
        self.fsid = fsid
        self.id = int(io.get_pool_id())
        self.rados, self.rbd = binding.rados(), binding.rbd()


class Cluster:
    """Connects when it is first asked, and again after the node was fenced or the connection failed."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._threads = ThreadPoolExecutor(THREADS, f"rbd-{access.storeid}")
        self._connecting = threading.Lock()
        self._connection: Any = None

    async def call(self, what: str, work: Callable[[Pool], Outcome], limit: float = LIMIT) -> Outcome:
        """Run blocking work on the pool. Raises what the work refuses, or VolumesError that tells `what` failed."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, what, work)
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            raise VolumesError(f"{what}: {self.access} did not end it within {limit:.0f} s.") from None

    def close(self) -> None:
        """Let go of the connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._disconnect()

    def _run(self, what: str, work: Callable[[Pool], Outcome]) -> Outcome:
        try:
            connection = self._connect()
            with connection.open_ioctx(self.access.pool) as io:
                io.set_namespace(self.access.namespace)
                return work(Pool(io, connection.get_fsid()))
        except (VolumesError, Refused):
            raise
        except Exception as error:  # the bindings' classes: rados.Error and rbd.Error, whose base is Exception
            number = number_of(error)
            if number in (errno.ESHUTDOWN, errno.ENOTCONN):
                self._disconnect()
            raise VolumesError(f"{what}: {self._explain(error, number)}") from error

    def _connect(self) -> Any:
        with self._connecting:
            if self._connection is None:
                access, rados = self.access, binding.rados()
                made = rados.Rados(
                    rados_id=access.user, conffile=str(access.conf or "/dev/null"), conf=dict(access.settings)
                )
                try:
                    made.connect()
                except BaseException:
                    made.shutdown()
                    raise
                self._connection = made
            return self._connection

    def _disconnect(self) -> None:
        with self._connecting:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.shutdown()

    def _explain(self, error: Exception, number: int | None) -> str:
        """For operators: what is wrong, and what to do next."""
        access = self.access
        if self._connection is None and number not in (errno.ESHUTDOWN, errno.ENOTCONN):
            if number in (errno.EACCES, errno.EPERM):
                return f"{access} refuses the key of client.{access.user}: {self._keyring()}"
            if number == errno.ENOENT:
                return f"there is no configuration or key for {access}: {self._keyring()}"
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
