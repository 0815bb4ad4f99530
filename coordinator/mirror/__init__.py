"""Proxmox's and libvirt's configuration as desired state: read, put into records, written where it differs."""
