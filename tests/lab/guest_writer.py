"""Starting the A >= B >= C writer (writer.py) in a host."""

from collections.abc import Sequence
from pathlib import Path

from .host import Host
from .process import HostProcess

_SOURCE = Path(__file__).with_name("writer.py")


def start_writer(
    host: Host,
    guest: str,
    targets: Sequence[str],
    *,
    epoch: int = 1,
    pause: float = 0.05,
    payload: int = 0,
    span: int = 8 << 20,
) -> HostProcess:
    """Write to `targets` (block devices, or directories) in order until stopped; see writer.py for the options."""
    for target in targets:
        # The link of a zvol comes a moment after the zvol.
        host.run(f"for i in $(seq 100); do [ ! -e {target} ] || exit 0; sleep 0.1; done; echo no {target} >&2; exit 1")
    host.put(_SOURCE, "/run/lab/writer.py", 0o755)
    options = f"--node {host.name} --guest {guest} --epoch {epoch} --pause {pause} --payload {payload} --span {span}"
    return host.spawn(f"python3 -S /run/lab/writer.py {options} {' '.join(targets)}", f"writer-{guest}")
