"""Is a recovery point one instant? Reads the writer's counters from its snapshots: A >= B >= C >= A - 1."""

import shlex
from collections.abc import Sequence
from itertools import pairwise

from .host import Host

_READ_SNAPSHOTS = r"""
set -eu
pool=${1%%/*}
place=$pool/lab-check-$$
trap 'zfs list -H -o name -t filesystem,volume | grep "^$place-" | xargs -rn1 zfs destroy -f' EXIT
n=0
for snapshot in "$@"; do
    n=$((n + 1))
    clone=$place-$n
    if [ "$(zfs get -Hp -o value type "${snapshot%@*}")" = volume ]; then
        zfs clone -o readonly=on -o volmode=dev "$snapshot" "$clone"
        for i in $(seq 100); do [ ! -b "/dev/zvol/$clone" ] || break; sleep 0.1; done
        file=/dev/zvol/$clone
    else
        zfs clone -o readonly=on -o canmount=on -o mountpoint="/run/lab/check-$$-$n" "$snapshot" "$clone"
        file=/run/lab/check-$$-$n/counter
    fi
    head -c 20 "$file" | tr -d '\0'
    echo
done
"""


class MixtureFound(AssertionError):
    """A recovery point shows writes that were never on the disks at one time."""


def counters(host: Host, snapshots: Sequence[str]) -> list[int]:
    """The counter in each snapshot (`tank/vm-1-disk-0@name`, all of one pool), read by clones that are removed again;
    0 where nothing was written yet. A snapshot that is being read cannot be destroyed meanwhile."""
    names = " ".join(map(shlex.quote, snapshots))
    output = host.run(f"set -- {names}\n{_READ_SNAPSHOTS}")
    return [int(line or 0) for line in output.splitlines()]


def check_counters(values: Sequence[int], point: str) -> None:
    """Raises MixtureFound unless each value is at most the one before, and the last at least the first less one."""
    falling = all(left >= right for left, right in pairwise(values))
    if not falling or values[-1] < values[0] - 1:
        raise MixtureFound(f"{point}: the counters are {list(values)}; want A >= B >= C >= A - 1")


def check_point(host: Host, snapshots: Sequence[str]) -> list[int]:
    """Check the snapshots of one point, in the order in which the writer writes; returns the counters.

    Raises MixtureFound.
    """
    values = counters(host, snapshots)
    check_counters(values, f"{host} {' '.join(snapshots)}")
    return values
