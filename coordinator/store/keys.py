"""Key ranges as etcd counts them: bytes, half-open, and a prefix is a range."""

# Others may write keys that are no text; they must neither stop a watch nor be confused with each other.
_OTHER_BYTES = "surrogateescape"

EVERYTHING = b"\x00"  # as range_end: no upper bound


def encode(key: str) -> bytes:
    """A key's bytes; etcd has no empty key."""
    if not key:
        raise ValueError("a key must not be empty")
    return key.encode(errors=_OTHER_BYTES)


def decode(key: bytes) -> str:
    """A key as text; `encode` gives the same bytes back."""
    return key.decode(errors=_OTHER_BYTES)


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """(key, range_end) of all keys that start with `prefix`; the empty prefix is the whole keyspace.

    The end is the prefix with its last byte below 0xff raised by one and the rest cut off (etcd, `WithPrefix`).
    """
    if not prefix:
        return b"\x00", EVERYTHING
    start = prefix.encode(errors=_OTHER_BYTES)
    for at in range(len(start) - 1, -1, -1):
        if start[at] < 0xFF:
            return start, start[:at] + bytes([start[at] + 1])
    return start, EVERYTHING


def after(key: bytes) -> bytes:
    """The smallest key above `key`: where the next page of a range load starts."""
    return key + b"\x00"
