"""Reads what a receive_resume_token says: which snapshot a half-received stream was bringing.

Format (libzfs, `zfs_send_resume_token_to_nvlist`): `1-CHECKSUM-LENGTH-HEX`, where HEX is a zlib-compressed nvlist in
XDR. Reading it here saves a `zfs send -nvt` for each.
"""

import struct
import zlib

_UINT64 = 8
"""DATA_TYPE_UINT64 in sys/nvpair.h."""


def to_guid(token: str) -> int | None:
    """The GUID of the snapshot that the stream was bringing; None if the token cannot be read."""
    try:
        version, _, length, packed = token.split("-", 3)
        if version != "1":
            return None
        data = zlib.decompress(bytes.fromhex(packed))
        if len(data) != int(length, 16):
            return None
        return _uint64s(data).get("toguid")
    except (ValueError, zlib.error, struct.error):
        return None


def _uint64s(data: bytes) -> dict[str, int]:
    """The uint64 members of a packed nvlist: 4 bytes of encoding, version and flags, then pairs until one of size 0."""
    if data[0] != 1:  # NV_ENCODE_XDR
        raise ValueError("not in XDR")
    found: dict[str, int] = {}
    at = 12
    while True:
        encoded, _ = struct.unpack_from(">ii", data, at)
        if encoded == 0:
            return found
        (length,) = struct.unpack_from(">i", data, at + 8)
        name = data[at + 12 : at + 12 + length].decode()
        value_at = at + 12 + (length + 3) // 4 * 4
        kind, count = struct.unpack_from(">ii", data, value_at)
        if kind == _UINT64 and count == 1:
            (found[name],) = struct.unpack_from(">Q", data, value_at + 8)
        at += encoded
