"""Starting the A >= B >= C writer (writer.py) in a host."""

from collections.abc import Sequence
from pathlib import Path

from .host import Host
from .process import HostProcess

_SOURCES = (Path(__file__).with_name("writer.py"), Path(__file__).with_name("vm_writer.py"))


def start_writer(
    host: Host,
    guest: str,
    targets: Sequence[str],
    *,
    epoch: int = 1,
    pause: float = 0.05,
    payload: int = 0,
    span: int = 8 << 20,
    program: str = "python3 -S /run/lab/writer.py",
) -> HostProcess:
    """Write to `targets` (block devices, or directories) in order until stopped; see writer.py for the options.

    `program`: another one of that folder, with options of its own; targets of its own kind are `rbd:…`.
    """
    for target in [target for target in targets if not target.startswith("rbd:")]:
        # The link of a zvol comes a moment after the zvol.
        host.run(f"for i in $(seq 100); do [ ! -e {target} ] || exit 0; sleep 0.1; done; echo no {target} >&2; exit 1")
    for source in _SOURCES:
        host.put(source, f"/run/lab/{source.name}", 0o755)
    options = f"--node {host.name} --guest {guest} --epoch {epoch} --pause {pause} --payload {payload} --span {span}"
    return host.spawn(f"{program} {options} {' '.join(targets)}", f"writer-{guest}")
