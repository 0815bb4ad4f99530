"""The guests that run on this node: pausing them for a moment, and telling whether they use their disks.

What is here but `pauser` runs in a small child process and imports nothing besides the standard library: it must start
fast, and must not hang on the agent.
"""
