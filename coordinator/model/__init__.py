"""Data: what the keyspace holds, checked at the edge."""
