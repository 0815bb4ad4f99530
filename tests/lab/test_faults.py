"""Three random faults of the soak, so that it cannot rot: see faults.py."""

import random

import pytest

from .cluster import Cluster
from .faults import Faults, covering
from .lab import Lab


@pytest.mark.timeout(900, func_only=True)
def test_three_random_faults_leave_no_mixed_point_no_full_resend_and_the_rpo_held(cluster: Cluster, lab: Lab) -> None:
    seed = random.SystemRandom().randrange(10**6)
    faults = Faults(cluster, seed)
    faults.start()
    for kind in covering(seed, 3, list(faults.kinds)):
        outcome = faults.one(kind)
        print(f"seed {seed}: {outcome.fault}: healthy after {outcome.seconds:.0f} s, {outcome.points} points whole")
