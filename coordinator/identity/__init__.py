"""Who is who in a cluster: its certificate authority, identities and their revocation. No I/O but in `files`."""
