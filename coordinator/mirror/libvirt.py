"""libvirt's pools and domains as records, for importing once. Pure; nothing secret passes.

A guest needs a VMID, which libvirt does not know: a domain keeps the one that a guest of its name has, and a new one
gets the lowest that is free.
"""

import re
from collections.abc import Mapping

from holdfast.coordinator.mirror.records import Records, disks, storage_fields
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.proxmox.libvirt import LibvirtError, Pool, parse_domain, parse_pool

_SECRET_ATTRIBUTE = re.compile(r"""\s+passwd\s*=\s*("[^"]*"|'[^']*')""")


def imported(
    pools: Mapping[str, bytes], domains: Mapping[str, bytes], node: str, guests: Mapping[int, Guest], first_vmid: int
) -> Records:
    """Return the records of pools' and domains' XML, given by file name; `guests` are those that there are."""
    records = Records()
    found: list[Pool] = []
    for where, data in sorted(pools.items()):
        try:
            pool = parse_pool(data)
        except LibvirtError as error:
            records.problems.append(f"{where}: {error}")
            continue
        found.append(pool)
        records.take("storage", pool.name, Storage, storage_fields(pool.storage), where)
    vmids = {guest.name: vmid for vmid, guest in guests.items() if guest.node == node and guest.type == "qemu"}
    taken = set(guests)
    for where, data in sorted(domains.items()):
        try:
            domain = parse_domain(data, found)
        except LibvirtError as error:
            records.problems.append(f"{where}: {error}")
            continue
        vmid = vmids.get(domain.name)
        if vmid is None:
            vmid = next(number for number in range(first_vmid, first_vmid + len(taken) + 1) if number not in taken)
            taken.add(vmid)
        fields = {
            "type": "qemu",
            "node": node,
            "name": domain.name,
            "disks": disks(domain.disks.values()),
            "definition": _SECRET_ATTRIBUTE.sub("", data.decode("utf-8", "replace")),
        }
        records.problems += [f"{domain.name}: {condition.message}" for condition in domain.conditions]
        records.take("guests", str(vmid), Guest, fields, where)
    return records
