"""A guest's definition as user properties: compressed and in pieces, as one holds at most 8 KiB (zfsprops(7))."""

import base64
import zlib
from collections import defaultdict
from collections.abc import Mapping

from holdfast.agent.storage.zfs import names

PIECE = 8000
"""Characters of one property's value."""


def split(digest: str, text: str) -> dict[str, str]:
    """Property → value, for a definition that is named by its digest."""
    packed = base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    pieces = [packed[i : i + PIECE] for i in range(0, len(packed), PIECE)]
    return {f"{names.DEFINITION}{digest}.{number}": piece for number, piece in enumerate(pieces)}


def join(properties: Mapping[str, str]) -> dict[str, str]:
    """Digest → text, of all definitions that can be read among a dataset's properties."""
    pieces: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for key, value in properties.items():
        if key.startswith(names.DEFINITION):
            digest, _, number = key.removeprefix(names.DEFINITION).partition(".")
            if number.isdecimal():
                pieces[digest][int(number)] = value
    found = {}
    for digest, parts in pieces.items():
        try:
            found[digest] = zlib.decompress(base64.b85decode("".join(parts[n] for n in sorted(parts)))).decode()
        except (ValueError, zlib.error, UnicodeDecodeError):  # a piece is missing
            continue
    return found
