"""Building what the hosts run from: packages, kernel modules, root, disk image, template."""
