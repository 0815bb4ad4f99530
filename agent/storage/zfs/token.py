"""Reads what a receive_resume_token says: what a half-received stream was bringing, from which base.

Format (libzfs, `zfs_send_resume_token_to_nvlist`): `1-CHECKSUM-LENGTH-HEX`, where HEX is a zlib-compressed nvlist in
its native encoding (dsl_dataset.c packs it by `fnvlist_pack`). Reading it here saves a `zfs send -nvt` for each.
"""

import struct
import zlib

_UINT64 = 8
"""DATA_TYPE_UINT64 in sys/nvpair.h."""
_HEADER = 12
"""Bytes: encoding (0 is native), byte order (1 is little), two unused; then the nvlist's version and flags."""
_PAIR = 16
"""Bytes of an nvpair_t before its name: size of it all, size of the name, unused, number of values, their type."""


def guids(token: str) -> tuple[int | None, int | None]:
    """GUIDs of the snapshot that the stream was bringing and of its base.

    The first is None if the token cannot be read, the second also if the stream was a full one.
    """
    try:
        version, _, length, packed = token.split("-", 3)
        if version != "1":
            return None, None
        data = zlib.decompress(bytes.fromhex(packed))
        if len(data) != int(length, 16):
            return None, None
        found = _uint64s(data)
        return found.get("toguid"), found.get("fromguid")
    except (ValueError, zlib.error, struct.error):
        return None, None


def _uint64s(data: bytes) -> dict[str, int]:
    """The uint64 members of a packed nvlist: a header, then pairs until one of size 0."""
    if data[:1] != b"\0":
        raise ValueError("not in the native encoding")
    order = "<" if data[1:2] == b"\1" else ">"
    found: dict[str, int] = {}
    at = _HEADER
    while True:
        (size,) = struct.unpack_from(f"{order}i", data, at)
        if size == 0:
            return found
        if size < _PAIR:
            raise ValueError("a pair that is no pair")
        name_size, _, count, kind = struct.unpack_from(f"{order}hhii", data, at + 4)
        if kind == _UINT64 and count == 1 and name_size > 0:
            name = data[at + _PAIR : at + _PAIR + name_size - 1].decode()
            (found[name],) = struct.unpack_from(f"{order}Q", data, at + (_PAIR + name_size + 7) // 8 * 8)
        at += size
