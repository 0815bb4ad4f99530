"""The shared keyspace and every decision; no storage command, no subprocess."""

__version__ = "0.1.0"
