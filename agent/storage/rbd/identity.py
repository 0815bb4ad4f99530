"""What RBD has instead of ZFS's GUIDs: 64 bits that name one snapshot of one image, the same on every node.

A snapshot made here is named by a hash over cluster, pool, image and snapshot ids, none of which is ever used again. A
received one has the GUID of what was sent: it is kept in the image's metadata *before* the stream begins, so that there
is no moment in which the snapshot exists without it (rbd-import-diff makes the snapshot last). So a key whose snapshot
does not exist, and that is of a later point than all that do, is a stream that was cut.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.agent.storage.rbd import names


@dataclass(frozen=True, slots=True)
class Received:
    """What a replica's metadata says of one snapshot."""

    guid: int
    base: int | None
    """GUID of the snapshot that the stream began at; None: at nothing."""

    def __str__(self) -> str:
        return f"{self.guid} {self.base or 0}"

    @classmethod
    def parse(cls, text: str) -> "Received":
        """Read what `str` wrote; ValueError."""
        guid, _, base = text.partition(" ")
        return cls(int(guid), int(base) or None)


def guid(fsid: str, pool: int, image: str, snapshot: int = 0) -> int:
    """Of a snapshot that was made on this cluster; without one, of the image."""
    text = f"{fsid}/{pool}/{image}/{snapshot}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1


def received(metadata: Mapping[str, str]) -> dict[str, Received]:
    """Snapshot's name → what came, or was to come, under it. What cannot be read is nothing of ours."""
    found = {}
    for key, value in metadata.items():
        if key.startswith(names.SNAP):
            try:
                found[key.removeprefix(names.SNAP)] = Received.parse(value)
            except ValueError:
                continue
    return found


def partial(found: Mapping[str, Received], snapshots: Sequence[str]) -> tuple[str, Received] | None:
    """The stream that was cut, if one was: its snapshot's name and what it was bringing."""
    cut = [name for name in found if name not in snapshots and names.newer(name, [*snapshots])]
    newest = next((name for name in cut if names.newer(name, [n for n in cut if n != name])), None)
    return (newest, found[newest]) if newest else None


def token(cut: Received) -> str:
    """What the sender is told, to bring it again: a stream of RBD's begins anew, from the same base."""
    return f"rbd-{cut.guid}-{cut.base or 0}"


def read_token(text: str) -> Received:
    """Undo `token`; ValueError."""
    kind, guid_, base = text.split("-")
    if kind != "rbd":
        raise ValueError(f"not a token of RBD: {text!r}")
    return Received(int(guid_), int(base) or None)
