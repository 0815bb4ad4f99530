"""Certificates and keys in files. A private key is 0600 from the moment it is there, and is never printed."""

import os
from pathlib import Path

PKI = Path("/etc/holdfast/pki")
"""Where a machine's own identities are, each as ROLE.crt and ROLE.key, beside ca.crt."""
AUTHORITY = Path("/etc/holdfast/ca")
"""Where the authority is, on the one machine that has it."""


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file: after a crash there is the old one or the new one. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    mode = 0o600 if private else 0o644
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask says
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
