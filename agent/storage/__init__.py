"""Storage back ends, each behind the Volumes port."""
