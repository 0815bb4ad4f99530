"""Scenario `replication`: one fault a run, thrown at two guests on ZFS in the lab."""

import os
import time
from collections.abc import Callable

from lab.cluster import Cluster
from lab.faults import Faults, covering
from lab.lab import Lab


def run(seed: int, first: int, last: int, record: Callable[[int, str, float], None]) -> None:
    """Runs `first` to `last`, on one cluster."""
    lab = Lab(os.environ.get("HOLDFAST_LAB_NAME", "soak"))
    cluster = Cluster(lab)
    try:
        lab.up(2)
        cluster.start()
        faults = Faults(cluster, seed + first - 1)
        faults.start()
        for number, kind in list(enumerate(covering(seed, last, list(faults.kinds)), 1))[first - 1 :]:
            began = time.monotonic()
            try:
                outcome = faults.one(kind)
            except AssertionError as error:
                record(number, f"{kind}: FAILED: {str(error).splitlines()[0]}", began)
                raise
            text = f"{kind}: healthy after {outcome.seconds:.0f} s, {outcome.points} points whole, nothing sent in full"
            record(number, text, began)
    finally:
        cluster.stop()
        lab.down()
