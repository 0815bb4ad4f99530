"""What all tiers share."""

from hypothesis import settings

# A loaded machine is slow; a test that hangs is stopped by its own timeout.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")
