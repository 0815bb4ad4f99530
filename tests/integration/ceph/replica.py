"""What is on a pool of a guest's points and marks: read from Ceph itself, not as Holdfast reads it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from holdfast.agent.storage.rbd import binding
from integration.ceph.site import Hand
from lab.mixture import check_counters

ANCHOR = "holdfast.guest.101"


@dataclass(frozen=True)
class Point:
    """A record of which every member is there."""

    id: tuple[int, int]
    instant: datetime
    one_instant: bool
    """Whether it says that its snapshots are of one."""
    members: dict[str, tuple[str, str]]
    """Disk → image and snapshot."""


def marks(hand: Hand) -> dict[str, str]:
    """The guest's anchor."""
    rados = binding.rados()
    try:
        with rados.ReadOpCtx() as op:
            found, _ = hand.io.get_omap_vals(op, "", "", 1000)
            hand.io.operate_read_op(op, ANCHOR)
            return {key: bytes(value).decode() for key, value in found}
    except rados.ObjectNotFound:
        return {}


def points(hand: Hand) -> list[Point]:
    """Those that are complete on a target, oldest first: each member has the GUID that the record lists."""
    records = [orjson.loads(value) for key, value in marks(hand).items() if key.startswith("point.")]
    received = {m["dataset"]: _received(hand, _image(m)) for r in records for m in r["members"]}
    whole = [
        Point(
            (r["epoch"], r["sequence"]),
            datetime.fromisoformat(r["instant"]),
            r["consistency"] != "none",
            {m["disk"]: (_image(m), m["snapshot"]) for m in r["members"]},
        )
        for r in records
        if {m["disk"] for m in r["members"]} == set(r["disks"])
        and all(received[m["dataset"]].get(m["snapshot"]) == str(m["guid"]) for m in r["members"])
    ]
    return sorted(whole, key=lambda point: point.id)


def _image(member: dict[str, Any]) -> str:
    return str(member["dataset"]).partition("/")[2]


def _received(hand: Hand, image: str) -> dict[str, str]:
    """Snapshot → GUID, of those that are there."""
    with _opened(hand, image) as opened:
        if opened is None:
            return {}
        there = {s["name"] for s in opened.list_snaps()}
        return {name: guid for name, guid in _named(opened).items() if name in there}


def _named(opened: Any) -> dict[str, str]:
    """Snapshot → GUID, as an image's metadata has it."""
    prefix = "holdfast.snap."
    return {k.removeprefix(prefix): v.split()[0] for k, v in opened.metadata_list() if k.startswith(prefix)}


@contextlib.contextmanager
def _opened(hand: Hand, image: str) -> Iterator[Any]:
    """None: there is no such image."""
    rbd = binding.rbd()
    try:
        opened = rbd.Image(hand.io, image, read_only=True)
    except rbd.ImageNotFound:
        yield None
    else:
        with opened:
            yield opened


def arriving(hand: Hand, images: Sequence[str]) -> bool:
    """Whether a stream is under way, or was cut."""
    return any(_coming(hand, image) for image in images)


def _coming(hand: Hand, image: str) -> set[str]:
    with _opened(hand, image) as opened:
        return set() if opened is None else _named(opened).keys() - {s["name"] for s in opened.list_snaps()}


def check_points(hand: Hand, order: Sequence[str]) -> tuple[int, int]:
    """Every complete point shows A >= B >= C >= A - 1 over the disks `order`, if it says that it is of one instant.

    Returns how many were, and how many did not say so. Raises lab.mixture.MixtureFound.
    """
    checked = unsaid = 0
    for point in points(hand):
        if not point.one_instant:
            unsaid += 1
            continue
        try:
            counters = [hand.counter(*point.members[disk]) for disk in order]
        except binding.rbd().ImageNotFound:  # superseded since it was listed
            continue
        check_counters(counters, f"point {point.id[0]}-{point.id[1]}")
        checked += 1
    return checked, unsaid


def left_over(hand: Hand, images: Sequence[str]) -> list[str]:
    """What should not be there once all is settled, in words: on the owner's pool or on the target's."""
    rbd, found = binding.rbd().RBD(), marks(hand)
    records = [orjson.loads(value) for key, value in found.items() if key.startswith("point.")]
    recorded = {(_image(m), m["snapshot"]) for r in records for m in r["members"]}
    definitions = {r["definition"] for r in records}
    said = [f"image {name}" for name in rbd.list(hand.io) if name not in images]
    said += [f"{entry['name']} in the trash" for entry in rbd.trash_list(hand.io)]
    for image in images:
        said += [f"{image}@{name} without a record" for name in hand.snapshots(image) if (image, name) not in recorded]
        said += [f"{image}: a stream of {name} that was cut" for name in _coming(hand, image)]
    said += [f"mark {key}" for key in found if key.startswith("taking.")]
    said += [f"mark {key}" for key in found if key.startswith("definition.") and key.split(".")[1] not in definitions]
    return said
