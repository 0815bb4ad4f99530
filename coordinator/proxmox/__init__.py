"""Proxmox's and libvirt's file formats, read exactly as they mean them; pure."""
