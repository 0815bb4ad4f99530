"""OpenZFS 2.1 and later, by its commands."""
