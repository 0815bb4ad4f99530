"""The lab: virtual hosts with real OpenZFS, in one network namespace. Start with README.md and `lab.py`."""
