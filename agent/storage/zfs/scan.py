"""One look at all pools of a node: two processes, however many volumes there are.

`zfs list` gives every dataset, snapshot and bookmark; `zfs get -s local` the properties that were set on the very
dataset. Only those count as marks: what is inherited or was received with a stream proves nothing (DESIGN §7).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.agent.storage.zfs import names
from holdfast.agent.storage.zfs.definition import join
from holdfast.agent.storage.zfs.token import guids
from holdfast.coordinator.model.point import PointId, RecoveryPoint
from holdfast.coordinator.planning.observed import CONTENT_PROPERTIES, Anchor, Bookmark, Scan, Snapshot, Space, Volume
from pydantic import ValidationError

COLUMNS = (
    *("name", "type", "guid", "createtxg", "used", "referenced", "written", "volsize", "refquota", "userrefs"),
    *("receive_resume_token", "encryption", "available", "origin"),
)
LIST = ("list", "-Hp", "-t", "filesystem,volume,snapshot,bookmark", "-o", ",".join(COLUMNS))
GET = ("get", "-Hp", "-s", "local", "-t", "filesystem,volume", "-o", "name,property,value", "all")

_ANCHOR = re.compile(r"([^/]+)/holdfast/guests/([1-9][0-9]{2,8})\Z")


@dataclass(slots=True)
class _Gathered:
    row: dict[str, str]
    snapshots: list[Snapshot] = field(default_factory=list)
    bookmarks: list[Bookmark] = field(default_factory=list)


def read(at: datetime, listed: bytes, local: bytes) -> Scan:
    """Make a Scan of what `LIST` and `GET` printed. Lines that cannot be read (foreign names) are passed over."""
    properties = _local_properties(local)
    gathered: dict[str, _Gathered] = {}
    for row in _rows(listed):
        _gather(row, gathered)
    volumes = {name: _volume(name, g, properties.get(name, {})) for name, g in gathered.items()}
    anchors = {}
    for name in gathered:
        if match := _ANCHOR.match(name):
            pool, vmid = match[1], int(match[2])
            anchors[pool, vmid] = _anchor(pool, vmid, properties.get(name, {}))
    space = {name: _space(g.row) for name, g in gathered.items() if "/" not in name}
    return Scan(at, volumes, anchors, space=space)


def _space(row: dict[str, str]) -> Space:
    """Of a pool, by its root dataset: what can be used of it, without what the pool keeps for itself."""
    free = _number(row["available"])
    return Space(free, free + _number(row["used"]))


def _rows(listed: bytes) -> Iterator[dict[str, str]]:
    for line in listed.decode(errors="replace").split("\n"):
        cells = line.split("\t")
        if len(cells) == len(COLUMNS):
            yield dict(zip(COLUMNS, cells, strict=True))


def _gather(row: dict[str, str], gathered: dict[str, _Gathered]) -> None:
    name, kind = row["name"], row["type"]
    if kind in ("filesystem", "volume"):
        gathered[name] = _Gathered(row)
        return
    separator = "@" if kind == "snapshot" else "#"
    dataset, _, short = name.partition(separator)
    parent = gathered.get(dataset)
    if parent is None:  # zfs list sorts a dataset before its snapshots; a foreign line broke the order
        return
    if kind == "snapshot":
        parent.snapshots.append(
            Snapshot(
                short,
                _number(row["guid"]),
                _number(row["createtxg"]),
                _number(row["written"]),
                _number(row["used"]),
                _number(row["userrefs"]),
            )
        )
    else:
        parent.bookmarks.append(Bookmark(short, _number(row["guid"]), _number(row["createtxg"])))


def _volume(name: str, gathered: _Gathered, properties: Mapping[str, str]) -> Volume:
    row = gathered.row
    size = _number(row["volsize"]) or _number(row["refquota"]) or _number(row["referenced"])
    token = row["receive_resume_token"]
    resume_guid, resume_base = guids(token)
    return Volume(
        dataset=name,
        kind=row["type"],
        guid=_number(row["guid"]),
        size=max(1, size),
        used=_number(row["used"]),
        referenced=_number(row["referenced"]),
        written=_number(row["written"]),
        encrypted=row["encryption"] not in ("-", "off", ""),
        resume_token=None if token in ("-", "") else token,
        resume_guid=resume_guid,
        resume_base=resume_base,
        marks={k.removeprefix(names.PREFIX): v for k, v in properties.items() if k.startswith(names.PREFIX)},
        properties={k: v for k, v in properties.items() if k in CONTENT_PROPERTIES},
        snapshots=tuple(sorted(gathered.snapshots, key=lambda s: s.createtxg)),
        bookmarks=tuple(sorted(gathered.bookmarks, key=lambda b: b.createtxg)),
        origin=None if row["origin"] in ("-", "") else row["origin"],
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _local_properties(local: bytes) -> dict[str, dict[str, str]]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line in local.decode(errors="replace").split("\n"):
        cells = line.split("\t")
        if len(cells) == 3:
            found[cells[0]][cells[1]] = cells[2]
    return found


def _anchor(pool: str, vmid: int, properties: Mapping[str, str]) -> Anchor:
    return Anchor(
        pool=pool,
        vmid=vmid,
        epoch=_number(properties.get(names.EPOCH, "0")),
        points=tuple(sorted(_points(properties), key=lambda p: p.id)),
        sent=dict(_sent(properties)),
        definitions=join(properties),
    )


def _points(properties: Mapping[str, str]) -> Iterable[RecoveryPoint]:
    for key, value in properties.items():
        if key.startswith(names.POINT):
            try:
                yield RecoveryPoint.model_validate_json(value)
            except ValidationError:  # written by another version: not a point to us, and never destroyed by us
                continue


def _sent(properties: Mapping[str, str]) -> Iterable[tuple[str, PointId]]:
    for key, value in properties.items():
        if key.startswith(names.SENT):
            point, _, target = value.partition(" ")
            try:
                yield target, PointId.parse(point)
            except ValueError:
                continue
