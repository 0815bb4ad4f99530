"""`/etc/pve` → desired state, by one elected node; desired storages → storage.cfg on nodes without Proxmox."""
