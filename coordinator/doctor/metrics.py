"""etcd's metrics, as far as they are looked at (Prometheus' text format)."""

from collections.abc import Mapping

_FSYNC = 'etcd_disk_wal_fsync_duration_seconds_bucket{le="'


def read(text: str) -> Mapping[str, float]:
    """Plain metrics by name; and `fsync_p99`, the bound of the bucket in which the 99th of 100 syncs ends."""
    found: dict[str, float] = {}
    buckets: list[tuple[float, float]] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        if line.startswith(_FSYNC):
            buckets.append((float(name.removeprefix(_FSYNC).rstrip('"}')), float(value)))
        elif name and "{" not in name:
            found[name] = float(value)
    if buckets and buckets[-1][1] > 0:
        found["fsync_p99"] = next(bound for bound, count in buckets if count >= 0.99 * buckets[-1][1])
    return found
