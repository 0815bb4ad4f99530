"""`holdfast-agent`: one per node."""
