"""A schedule: the cluster of one run and the faults that strike it, as data that a seed draws and a file keeps."""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Fault:
    """Strikes at a moment (`at`, true seconds) or at the `nth` time that a step begins (`before`) or is done (`after`).

    What strikes at a step strikes the machine that takes it; else `node`. `amount` means what its kind makes of it.
    """

    kind: str
    at: float | None = None
    step: str = ""
    nth: int = 1
    phase: str = "before"
    node: str = "n1"
    other: str = ""
    """The other machine of a partition; empty: all of them."""
    vmid: int = 101
    seconds: float = 10.0
    amount: float = 0.5
    chained: bool = False
    """Time and steps count from the moment at which the fault before it in the schedule strikes."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest: `disks` of them are written, one more is still if `still`, the last is on a second pool if `spread`.

    The last `rbd` of those that are written are images on a Ceph that all nodes share.
    """

    vmid: int
    node: str
    kind: str = "qemu"
    disks: int = 3
    still: bool = False
    spread: bool = False
    every: float = 2.0
    count: int = 200_000
    written: int = 2_000_000
    """Bytes on each disk at the start."""
    rests: tuple[tuple[float, float], ...] = ()
    rbd: int = 0


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A snapshot policy for all guests; `every` in seconds."""

    name: str
    every: float
    keep: str
    replicas: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """What people do about snapshots at a moment (see `people`)."""

    what: str
    at: float
    vmid: int = 101
    amount: float = 0.5
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run."""

    seed: int
    nodes: int = 2
    coordinators: int = 1
    rpo: float = 20.0
    keep: int = 1
    bandwidth: float = 4e6
    transfers: int = 4
    """Of an agent at once."""
    rates: dict[str, float] = field(default_factory=dict)
    guests: tuple[GuestSpec, ...] = (GuestSpec(101, "n1"),)
    faults: tuple[Fault, ...] = ()
    length: float = 60.0
    """Seconds that it lasts at least, faults or not."""
    snapshots: tuple[PolicySpec, ...] = ()
    acts: tuple[Act, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data: dict[str, Any] = json.loads(text)
        data["guests"] = tuple(
            GuestSpec(**{**g, "rests": tuple(map(tuple, g.get("rests", ())))}) for g in data["guests"]
        )
        data["faults"] = tuple(Fault(**f) for f in data["faults"])
        data["snapshots"] = tuple(PolicySpec(**p) for p in data.get("snapshots", ()))
        data["acts"] = tuple(Act(**a) for a in data.get("acts", ()))
        return cls(**data)


STEPS = (
    *("scan", "prepare", "raise_epoch", "take", "hold", "ask_inventory", "ask_send", "send", "receive", "ask_commit"),
    *("commit", "set_properties", "record_sent", "release", "destroy", "drop_bookmark"),
    *("ask_abort", "abort_partial", "ask_aside", "set_aside", "report", "decide", "list", "save", "pause", "resume"),
    *("put_aside", "clone_back", "promote"),
)
"""Of the protocol: where faults strike."""

RBD_STEPS = (
    *("rbd_look", "rbd_mark", "rbd_announce", "rbd_snapshot", "rbd_record", "rbd_protect", "rbd_remove", "rbd_begin"),
    *("rbd_export", "rbd_import", "rbd_undo", "rbd_aside", "rbd_clients", "rbd_put", "rbd_roll_back"),
)
"""Of the RBD back end, where a guest has disks there."""

SELDOM = (
    *("prepare", "raise_epoch", "list", "save", "decide", "drop_bookmark", "set_properties"),
    *("ask_abort", "abort_partial", "ask_aside", "set_aside", "put_aside", "clone_back", "promote"),
    *("rbd_undo", "rbd_aside", "rbd_clients", "rbd_put", "rbd_roll_back"),
)
"""Steps that may happen once or not at all, unless something else has gone before."""


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    from .faults import KINDS

    rng = random.Random(seed * 2 + 1)
    first = KINDS[seed % len(KINDS)], STEPS[seed // len(KINDS) % len(STEPS)]  # every kind meets every step in turn
    nodes = 3 if first[0] == "owner_change" else rng.choice((2, 2, 3))  # a new owner needs a target of its own
    names = [f"n{i + 1}" for i in range(nodes)]
    rpo = rng.choice((10.0, 16.0, 24.0))
    bandwidth = rng.choice((1e6, 4e6, 2e7))
    guests = [_guest(rng, 101, "n1", bandwidth)]
    if rng.random() < 0.6:
        guests.append(_guest(rng, 102, rng.choice(names), bandwidth))
    faults: list[Fault] = []
    for number in range(rng.choice((1, 2, 2, 3))):
        kind, step = first if number == 0 else (rng.choice(KINDS), rng.choice(STEPS) if rng.random() < 0.85 else "")
        if step == "set_properties":  # of containers
            guests[0] = replace(guests[0], kind="lxc")
        if step in ("pause", "resume"):  # of guests on two pools
            guests[0] = replace(guests[0], spread=True)
        faults += _prelude(rng, step, guests[0])
        faults.append(_fault(rng, kind, step, names, guests))
        if number and rng.random() < 0.5:  # misfortunes come together
            faults[-1] = _soon_after(rng, faults[-1])
    rates = {name: rng.choice((0.99, 1.0, 1.01)) for name in (*names, "w1")} if rng.random() < 0.3 else {}
    drawn = Schedule(
        seed=seed,
        nodes=nodes,
        coordinators=rng.choice((1, 1, 2)),
        rpo=rpo,
        keep=rng.choice((1, 1, 3)),
        bandwidth=bandwidth,
        rates=rates,
        guests=tuple(guests),
        faults=tuple(faults),
        length=rpo * 2.5 + 10,
        transfers=rng.choice((1, 4)) if len(guests) == 1 and nodes == 2 else 4,  # one at a time must be enough
        **_snapshots(random.Random(f"snapshots of {seed}"), [guest.vmid for guest in guests]),
    )
    return _with_rbd(drawn) if seed % RBD_EVERY == 2 else drawn


RBD_EVERY = 5
"""In one of so many runs a guest has disks on RBD."""
_RARE = tuple(step for step in RBD_STEPS if step in SELDOM)
_IN_TURN = (*RBD_STEPS, *RBD_STEPS, *_RARE, *_RARE)
"""Every kind meets every step of it twice, and twice more what may not come: these are the runs of CI's share."""


def _with_rbd(drawn: Schedule) -> Schedule:
    """Guest 102 has its disks on RBD, or some of them, and faults strike there; drawn apart, as the snapshots are."""
    from .faults import RBD_KINDS

    rng = random.Random(f"rbd of {drawn.seed}")
    number = drawn.seed // RBD_EVERY
    kind, step = RBD_KINDS[number % len(RBD_KINDS)], _IN_TURN[number // len(RBD_KINDS) % len(_IN_TURN)]
    nodes = 3 if kind == "owner_change" else drawn.nodes
    names = [f"n{i + 1}" for i in range(nodes)]
    guest = replace(_guest(rng, 102, rng.choice(names), drawn.bandwidth), kind="qemu", spread=False)
    guest = replace(guest, rbd=rng.choice((guest.disks, guest.disks, guest.disks - 1, 1)))
    if kind == "rollback" or step in ("rbd_clients", "rbd_put", "rbd_roll_back"):  # refused of disks on both
        guest = replace(guest, rbd=guest.disks, still=False)
    faults = [*_prelude(rng, step, guest), _fault(rng, kind, step, names, [guest])]
    if rng.random() < 0.5:
        another = _fault(rng, rng.choice(RBD_KINDS), rng.choice(RBD_STEPS), names, [guest])
        faults.append(_soon_after(rng, another) if rng.random() < 0.5 else another)
    return replace(drawn, nodes=nodes, guests=(drawn.guests[0], guest), faults=(*drawn.faults, *faults), transfers=4)


def _snapshots(rng: random.Random, vmids: list[int]) -> dict[str, Any]:
    """Every other run has snapshot policies; drawn apart, so that the faults of a seed stay what they were."""
    if rng.random() < 0.5:
        return {}
    rules = ("last=1", "last=2", "last=3", "last=5", "hourly=1", "last=2,hourly=2")
    policies = tuple(
        PolicySpec(
            name,
            every=rng.choice((10.0, 15.0, 24.0)),
            keep=rng.choice(rules),
            replicas=rng.choice(("", "", *rules)),
            prefix=rng.choice(("", "auto")),
        )
        for name in ("often", "seldom")[: rng.choice((1, 2))]
    )
    acts = tuple(
        Act(
            rng.choice(("change", "drop", "ask", "ask", "delete", "delete", "crowd")),
            at=round(rng.uniform(5, 70), 3),
            vmid=rng.choice(vmids),
            amount=round(rng.random(), 3),
            seconds=round(rng.uniform(5, 40), 3),
        )
        for _ in range(rng.choice((0, 1, 2, 3)))
    )
    return {"snapshots": policies, "acts": acts}


def _guest(rng: random.Random, vmid: int, node: str, bandwidth: float) -> GuestSpec:
    start = rng.uniform(10, 80)
    every = rng.choice((0.7, 2.0, 4.0))
    most = int(min(bandwidth, 2e6) * every / 3 / 4)  # what a quarter of the link can carry
    return GuestSpec(
        vmid=vmid,
        node=node,
        kind=rng.choice(("qemu", "qemu", "lxc")),
        disks=rng.choice((2, 3, 3)),
        still=rng.random() < 0.4,
        spread=rng.random() < 0.15,
        every=every,
        count=min(most, rng.choice((20_000, 200_000))),
        written=rng.choice((1_000_000, 6_000_000)),
        rests=((start, start + rng.uniform(20, 60)),) if rng.random() < 0.4 else (),
    )


def _fault(rng: random.Random, kind: str, step: str, names: list[str], guests: list[GuestSpec]) -> Fault:
    node = rng.choice(names)
    return Fault(
        kind=kind,
        at=None if step else round(rng.uniform(2, 60), 3),
        step=step,
        nth=1 if step in SELDOM else rng.choice((1, 1, 2, 3) if step == "ask_inventory" else (1, 1, 2, 3, 4, 6)),
        phase=rng.choice(("before", "after")),
        node=node,
        other=rng.choice(("", *[n for n in names if n != node])),
        vmid=rng.choice(guests).vmid,
        seconds=round(rng.choice((rng.uniform(0.5, 8), rng.uniform(5, 45))), 3),
        amount=round(rng.random(), 3),
    )


def _soon_after(rng: random.Random, fault: Fault) -> Fault:
    """The same soon after the fault before it."""
    if fault.at is not None:
        return replace(fault, at=round(rng.uniform(0.05, 5), 3), chained=True)
    return replace(fault, nth=rng.choice((1, 1, 1, 2, 3)), chained=True)


def _prelude(rng: random.Random, step: str, guest: GuestSpec) -> list[Fault]:
    """What makes a rare step happen."""
    match step:
        case "ask_abort" | "abort_partial":  # half received, then the snapshot goes
            return [
                Fault("cut", step="send", nth=rng.randint(3, 9), amount=0.5, node="n1"),
                Fault("admin_destroy_goal", step="ask_inventory", nth=1, seconds=0.0, chained=True),
            ]
        case "rbd_undo":
            return [
                Fault("cut", step="rbd_export", nth=rng.randint(3, 9), amount=0.5, node=guest.node),
                Fault("admin_destroy_goal", step="ask_inventory", vmid=guest.vmid, seconds=0.0, chained=True),
            ]
        case "rbd_aside":
            return [Fault("admin_destroy", at=round(rng.uniform(15, 60), 3), vmid=guest.vmid, amount=1.0)]
        case "rbd_clients" | "rbd_put" | "rbd_roll_back":
            at, amount = round(rng.uniform(15, 50), 3), round(rng.uniform(0.3, 1), 3)
            return [Fault("rollback", at=at, vmid=guest.vmid, amount=amount)]
        case "put_aside" | "clone_back" | "promote":
            return [Fault("rollback", at=round(rng.uniform(15, 50), 3), amount=round(rng.uniform(0.3, 1), 3))]
        case "ask_aside" | "set_aside":  # nothing in common any more
            return [Fault("admin_destroy", at=round(rng.uniform(15, 60), 3), amount=1.0)]
        case _:
            return []
