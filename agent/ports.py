"""Three of the four ports through which every effect goes (the fourth, Store, is `coordinator.store.port`).

Production has the real ones, the simulator its own. Nothing else makes a thread, a child process or a socket.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Literal, Protocol, TypeVar

from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.leftovers import Doomed
from holdfast.coordinator.planning.observed import Scan
from holdfast.proto import transfer_pb2 as wire

Outcome = TypeVar("Outcome")


class Refused(Exception):
    """The other side, or the storage itself, said no. `reason` is one CamelCase word; the text is for operators."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class VolumesError(Exception):
    """A storage command failed; the text has its command and what it printed."""


class WireError(Exception):
    """The other agent cannot be reached, or the link broke or stalled."""


@dataclass(frozen=True, slots=True, order=True)
class LockToken:
    """What orders the holders of a guest's lock: the later one is greater."""

    generation: int
    """Of the keyspace: in one that was rebuilt, revisions begin anew."""
    revision: int
    """The lock's create_revision."""

    def __str__(self) -> str:
        return f"{self.generation}.{self.revision}"

    @classmethod
    def parse(cls, text: str) -> "LockToken":
        """Undo `str`; ValueError."""
        generation, _, revision = text.partition(".")
        return cls(int(generation), int(revision))


class Channel(Protocol):
    """An open connection to another agent, between its preamble and its result.

    Each call raises WireError, or Refused where the other side does not accept who this one is.
    """

    @property
    def node(self) -> str | None:
        """The node that the other side has proven to be; None where the link is trusted as a whole."""

    async def send(self, message: wire.Request | wire.Answer | wire.Result) -> None:
        """Send one message. Raises WireError."""

    async def request(self) -> wire.Request:
        """Await a Request. Raises WireError, also when the other side is silent for too long."""

    async def answer(self) -> wire.Answer:
        """Await an Answer. Raises WireError."""

    async def result(self) -> wire.Result:
        """Await a Result. Raises WireError."""

    def transferred(self) -> int:
        """Bytes that the other side has acknowledged, or that have arrived from it: what progress is measured by."""

    def finish_sending(self) -> None:
        """No more bytes will follow from here."""

    def abort(self) -> None:
        """Break the connection at once, in both directions; whoever reads or writes it sees its end."""

    async def close(self) -> None:
        """Let go of it."""


Handler = Callable[[Channel], Awaitable[None]]


class Wire(Protocol):
    """Connections between agents."""

    async def connect(self, node: str, address: str, port: int, pace: int | None = None) -> Channel:
        """Connect to a node's agent. `pace` bounds what this side sends, in bytes per second.

        Raises WireError, or Refused where another than `node` answers.
        """

    async def serve(self, address: str, port: int, handler: Handler) -> None:
        """Accept connections until cancelled; each gets `handler` in a task of its own."""


@dataclass(frozen=True, slots=True)
class TakeOrder:
    """Snapshot these volumes of one guest, all in one pool, and record the point."""

    vmid: int
    pool: str
    epoch: int
    point: RecoveryPoint
    """Its members have GUID 0 and the wanted name; what is recorded has what was taken."""
    reuse: Mapping[str, tuple[str, int]]
    """Dataset → short name and GUID of the snapshot to use again, if nothing was written since."""
    definition: str


@dataclass(frozen=True, slots=True)
class SendOrder:
    """Send `source` (dataset@snapshot), from `base` (`@snapshot` or `#bookmark`) or in full, or go on by a token."""

    source: str
    base: str | None = None
    resume_token: str | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True)
class ReceiveOrder:
    """Receive into `dataset`; `mark` names the guest and disk that it is a replica of."""

    dataset: str
    mark: str
    kind: str
    """`volume` or `filesystem`."""
    resume: bool = False
    incremental: bool = False
    snapshot: str = ""
    """Short name of the snapshot that comes."""
    guid: int = 0
    """Its GUID."""
    base: int = 0
    """GUID of the snapshot that the stream begins at; 0: in full, or with `resume` whatever the cut one began at."""


@dataclass(frozen=True, slots=True)
class CommitOrder:
    """Record a point on a target, and let go of superseded ones, in one transaction that checks epoch and GUIDs."""

    vmid: int
    pool: str
    epoch: int
    point: RecoveryPoint
    definition: str
    destroy: tuple[Doomed, ...] = ()
    forget: tuple[PointId, ...] = ()
    forget_definitions: tuple[tuple[str, str], ...] = ()
    """(digest, text)"""


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """Clone `snapshot` (dataset@name) as `dataset`, read-only, for a person."""

    snapshot: str
    dataset: str
    kind: str
    """`volume` or `filesystem`."""
    mark: str
    """What of what it is (`planning.copies`)."""
    folder: str | None
    """Where it is to be mounted; a volume then has a device. None: it stays closed."""


class Volumes(Protocol):
    """The storage of one node. Each call raises VolumesError, or Refused where an epoch or a GUID forbids it."""

    async def scan(self) -> Scan:
        """Look at everything."""

    async def prepare(self, pool: str, vmid: int) -> None:
        """Make the guest's anchor on a pool, if it is not there."""

    async def raise_epoch(self, pool: str, vmid: int, epoch: int) -> None:
        """Mark that `epoch` is now the lowest that may change the guest's volumes on this pool."""

    async def take(self, order: TakeOrder) -> RecoveryPoint:
        """Take a point: all snapshots and the record, or nothing. Returns the record as it was written."""

    async def hold(self, snapshots: Sequence[str]) -> None:
        """Keep snapshots from being destroyed."""

    async def release(self, snapshots: Sequence[str]) -> None:
        """Undo `hold`."""

    async def record_sent(
        self, pool: str, vmid: int, epoch: int, target: str, point: PointId, bookmarks: Sequence[tuple[str, str]]
    ) -> None:
        """Mark that a target has committed a point, and bookmark its snapshots (snapshot, bookmark)."""

    async def destroy(
        self,
        pool: str,
        vmid: int,
        epoch: int,
        doomed: Sequence[Doomed],
        forget: Sequence[PointId],
        definitions: Sequence[tuple[str, str]],
    ) -> None:
        """Destroy snapshots that still have their GUID, then forget the points and definitions that needed them."""

    async def drop_bookmark(self, bookmark: str) -> None:
        """Destroy a bookmark of ours."""

    async def send(self, order: SendOrder, channel: Channel) -> None:
        """Write a stream into the channel until it ends."""

    async def receive(self, order: ReceiveOrder, channel: Channel) -> None:
        """Read a stream from the channel until it ends; what arrived of a broken one is kept for resuming."""

    async def abort_partial(self, dataset: str) -> None:
        """Drop what is kept of a broken stream."""

    async def set_aside(self, dataset: str, vmid: int, epoch: int) -> str:
        """Rename a replica of ours out of the way, within its pool; return its new name."""

    async def put_aside(self, dataset: str, aside: str, kind: str) -> None:
        """Rename a head, or a replica of ours, to this name under `<pool>/holdfast/aside/`, and close it."""

    async def clone_back(self, snapshot: str, dataset: str, kind: str) -> None:
        """Clone a snapshot of what was set aside as `dataset`, with the properties that this had before."""

    async def promote(self, pool: str, vmid: int, epoch: int, dataset: str, snapshot: str, guid: int) -> None:
        """Let a clone of `snapshot` (which has this GUID) have the history that it comes from."""

    async def clients(self, datasets: Sequence[str]) -> tuple[str, ...]:
        """Who has these open, on any node, as far as the storage itself knows: that is RBD. See `Host.users`."""

    async def kernel_names(self, datasets: Sequence[str]) -> Mapping[str, str]:
        """By what a kernel that has mapped them knows those on RBD: dataset → FSID/POOL/NAMESPACE/IMAGE."""

    async def roll_back(self, aside: str, snapshot: str, guid: int, mark: str) -> None:
        """On RBD: let what was put aside be what its snapshot is, and mark that it was done."""

    async def put_back(self, aside: str, dataset: str) -> None:
        """On RBD: undo `put_aside`."""

    async def make_copy(self, order: CopyOrder) -> None:
        """Clone a point's snapshot for a person. Refused where it is to be shown, and cannot be."""

    async def show_copy(self, order: CopyOrder) -> None:
        """Mount what was cloned in its folder, or give it a device. What is so already is as good."""

    async def flatten_copy(self, dataset: str) -> None:
        """On RBD: copy into a clone what it shares with its point, which it does not need any more then."""

    async def drop_copy(self, dataset: str) -> None:
        """Destroy a copy, shown or not; VolumesError while it is in use."""

    async def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        """Set native properties of a container's volume."""

    async def commit(self, order: CommitOrder) -> None:
        """Record a point that is complete here."""


class PauseRefused(Exception):
    """A guest cannot be paused; the message says why."""


@dataclass(frozen=True, slots=True)
class GuestHere:
    """A guest of this node, and the disks that are meant."""

    vmid: int
    kind: Literal["qemu", "lxc"]
    datasets: tuple[str, ...]
    freeze: bool = False
    """Whether a pause is to flush and freeze its file systems as well."""
    clients: tuple[str, ...] = ()
    """Who has its disks on shared storage open, as `Volumes.clients` tells: where it is off, nobody has."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Of those of a container, `Volumes.kernel_names`."""


class Pause(Protocol):
    """A guest that stands still."""

    seconds: float
    """How long it stood still; known once it goes on."""

    async def resume(self) -> str | None:
        """Let it go on. None: it stood still from the beginning until now; else why that is not certain."""


class Host(Protocol):
    """The machine: clocks, durable state, the service manager, and the guests that run on it."""

    @property
    def zone(self) -> tzinfo:
        """The node's time zone: schedules are meant in it."""

    def now(self) -> datetime:
        """The wall clock, aware."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def blocking(self, call: Callable[[], Outcome]) -> Outcome:
        """Run what may keep the loop waiting: slow file systems, seconds of reading. It ends by itself."""

    def load(self, name: str) -> bytes | None:
        """Read a small piece of durable state; None if there is none."""

    async def save(self, name: str, data: bytes) -> None:
        """Replace a small piece of durable state, atomically."""

    def notify(self, state: str) -> None:
        """Tell the service manager (sd_notify(3)); nothing happens without one."""

    def pause(self, guest: GuestHere) -> AbstractAsyncContextManager[Pause]:
        """The guest writes nothing inside the block, for a bounded time; it goes on whatever becomes of the agent.

        One that is off stays off, and has nothing to freeze. Raises PauseRefused.
        """

    async def users(self, guest: GuestHere) -> tuple[str, ...]:
        """The processes that use the guest's disks, as an operator may know them. Raises VolumesError."""
