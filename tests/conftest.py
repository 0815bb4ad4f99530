"""What all tiers share."""

import os

from hypothesis import settings

# A loaded machine is slow; a test that hangs is stopped by its own timeout.
settings.register_profile("holdfast", deadline=None)
# What lands depends on the commit alone; new examples are looked for by hand, where what they find is kept.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "holdfast")
