"""What all tiers share."""

import os
import signal

from hypothesis import settings

# A loaded machine is slow; a test that hangs is stopped by its own timeout.
settings.register_profile("holdfast", deadline=None)
# What lands depends on the commit alone; new examples are looked for by hand, where what they find is kept.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "holdfast")

# A job in a script's background ignores it, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
