"""RBD images on Ceph (Pacific and later), by librbd in this process; streams by the rbd command."""
