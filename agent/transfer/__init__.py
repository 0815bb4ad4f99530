"""The data path: agents' protocol, and streams of volumes between them."""
