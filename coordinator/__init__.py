"""The shared keyspace and every decision; no storage command, no subprocess."""
