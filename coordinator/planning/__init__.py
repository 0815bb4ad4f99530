"""Pure decisions: data in, steps out; no I/O, no clock."""
