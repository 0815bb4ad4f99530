"""libvirt: storage pools and the disks of domains, in the terms used for Proxmox.

Source of the rules: libvirt's formatstorage and formatdomain pages. The XML comes from `virsh pool-dumpxml` and
`virsh dumpxml`. It is read with the standard library's expat, which loads nothing from outside; a document type, and
with it every entity of a document's own, is refused: libvirt writes none, and entities are what makes XML dangerous.
"""

import posixpath
import xml.parsers.expat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

from . import values
from .drives import Drive, Kind
from .replicability import Condition
from .storage_config import Storage

LARGEST_DOCUMENT = 16 << 20

# libvirt's pool types, and Proxmox's for the same thing; a type of its own where there is none
POOL_TYPES = {
    "dir": "dir",
    "fs": "dir",
    "netfs": "nfs",
    "logical": "lvm",
    "disk": "libvirt-disk",
    "scsi": "libvirt-scsi",
    "mpath": "libvirt-mpath",
    "iscsi": "iscsi",
    "iscsi-direct": "iscsidirect",
    "rbd": "rbd",
    "gluster": "glusterfs",
    "zfs": "zfspool",
    "vstorage": "libvirt-vstorage",
    "sheepdog": "libvirt-sheepdog",
}
_NETWORK_FILE_SYSTEMS = {"nfs": "nfs", "cifs": "cifs", "glusterfs": "glusterfs", "auto": "nfs", "": "nfs"}
_SHARED = frozenset({"netfs", "iscsi", "iscsi-direct", "rbd", "gluster", "vstorage", "sheepdog"})


class LibvirtError(ValueError):
    """A document that is no XML, or not the kind that was asked for."""


@dataclass(frozen=True)
class Pool:
    """One storage pool; `storage` is the same in Proxmox's terms, `location` what its volumes' paths begin with."""

    name: str
    uuid: str | None
    type: str
    storage: Storage
    location: str | None


@dataclass(frozen=True)
class Domain:
    """One domain: a guest of libvirt's, with its disks by target (`vda`, `sda` …)."""

    name: str
    uuid: str | None
    type: str
    disks: dict[str, Drive]
    conditions: tuple[Condition, ...]


def parse_xml(data: bytes) -> Element:
    """Return a document's root; raises LibvirtError."""
    if len(data) > LARGEST_DOCUMENT:
        raise LibvirtError(f"the document is larger than {LARGEST_DOCUMENT >> 20} MiB")
    builder = TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(data, True)
        return builder.close()
    except (xml.parsers.expat.ExpatError, AssertionError, UnicodeError, LookupError) as error:
        raise LibvirtError(f"it is no well-formed XML: {error}") from None


def _refuse_document_type(*_: object) -> None:
    raise LibvirtError("it declares a document type, which libvirt never does")


def parse_pool(data: bytes) -> Pool:
    """Read a pool's XML; raises LibvirtError."""
    root = parse_xml(data)
    if root.tag != "pool":
        raise LibvirtError(f"<{root.tag}> is no <pool>")
    kind, name = root.get("type", ""), _text(root, "name")
    if kind not in POOL_TYPES:
        raise LibvirtError(f"pool {name!r}: type {kind!r} is not known; types are {', '.join(POOL_TYPES)}")
    if not name:
        raise LibvirtError("the pool has no name")
    source = root.find("source")
    source = Element("source") if source is None else source
    target = _text(root, "target/path")
    storage_type, properties = _properties(kind, source, target)
    location = _location(kind, _text(source, "name") or name, target)
    storage = Storage(name, storage_type, 0, properties, frozenset({"images"}), kind in _SHARED, None, False)
    return Pool(name, _text(root, "uuid"), kind, storage, location)


def _properties(kind: str, source: Element, target: str | None) -> tuple[str, dict[str, Any]]:
    """Return Proxmox's type for a pool and its properties, as far as the pool tells them."""
    storage_type = POOL_TYPES[kind]
    hosts = [_address(host) for host in source.findall("host")]
    server = hosts[0] if hosts else None
    name = _text(source, "name")
    directory = _attribute(source, "dir", "path")
    device = _attribute(source, "device", "path")
    found: dict[str, str | None] = {}
    match kind:
        case "dir" | "fs":
            found = {"path": target}
        case "netfs":
            storage_type = _NETWORK_FILE_SYSTEMS.get(_attribute(source, "format", "type") or "", "libvirt-netfs")
            where = {"nfs": "export", "cifs": "share", "glusterfs": "volume"}.get(storage_type, "source")
            found = {"path": target, "server": server, where: directory}
        case "gluster":
            found = {"server": server, "volume": name, "subdir": directory if directory != "/" else None}
        case "logical":
            found = {"vgname": name}
        case "iscsi" | "iscsi-direct":
            found = {"portal": server, "target": device}
        case "rbd":
            pool, _, namespace = (name or "").partition("/")
            username = _attribute(source, "auth", "username")
            found = {
                "pool": pool,
                "namespace": namespace or None,
                "monhost": " ".join(hosts) or None,
                "username": username,
            }
        case "zfs":
            found = {"pool": name}
        case _:
            found = {"path": target, "source": name or directory or device, "server": server}
    return storage_type, {key: value for key, value in found.items() if value is not None}


def _location(kind: str, name: str, target: str | None) -> str | None:
    if kind == "zfs":
        return f"/dev/zvol/{name}"
    if kind == "logical":
        return target or f"/dev/{name}"
    if kind == "rbd":
        return name
    return posixpath.normpath(target) if target else None


def parse_domain(data: bytes, pools: Iterable[Pool] = ()) -> Domain:
    """Read a domain's XML; a disk whose path lies in one of the pools is that pool's volume. Raises LibvirtError."""
    root = parse_xml(data)
    if root.tag != "domain":
        raise LibvirtError(f"<{root.tag}> is no <domain>")
    name = _text(root, "name")
    if not name:
        raise LibvirtError("the domain has no name")
    known = list(pools)
    shared = {pool.name: pool.storage.shared for pool in known}
    disks: dict[str, Drive] = {}
    for element in root.iterfind("devices/disk"):
        drive = _disk(element, known)
        if drive.slot in disks:
            raise LibvirtError(f"domain {name!r} has two disks {drive.slot!r}")
        disks[drive.slot] = drive
    conditions = [found for drive in disks.values() if (found := _condition(drive, shared))]
    conditions += _passed_through(root)
    return Domain(name, _text(root, "uuid"), root.get("type", ""), disks, tuple(conditions))


def _disk(element: Element, pools: list[Pool]) -> Drive:
    target = _attribute(element, "target", "dev")
    if not target:
        raise LibvirtError("a disk has no target")
    media, source = element.get("device", "disk"), element.find("source")
    options: dict[str, Any] = {"bus": _attribute(element, "target", "bus")}
    options["format"] = _attribute(element, "driver", "type")
    options["cache"] = _attribute(element, "driver", "cache")
    options["media"] = "cdrom" if media in ("cdrom", "floppy") else None
    options["ro"] = True if element.find("readonly") is not None else None
    options = {key: value for key, value in options.items() if value is not None}
    kind, where, networked = _source(element.get("type", "file"), source, pools)
    if media in ("cdrom", "floppy") and kind != "empty":
        kind = "cdrom"
    shared = networked or element.find("shareable") is not None
    return Drive(target, kind, where, None, backup=True, replicate=True, shared=shared, options=options)


def _source(kind: str, source: Element | None, pools: list[Pool]) -> tuple[Kind, str, bool]:
    """Return what a disk's source is, where, and whether it comes over a network of its own."""
    if source is None:
        return "empty", "none", False
    if kind == "volume":
        pool, volume = source.get("pool"), source.get("volume")
        return ("volume", f"{pool}:{volume}", False) if pool and volume else ("empty", "none", False)
    if kind == "network":
        protocol, name = source.get("protocol", ""), source.get("name", "")
        owner = next((p for p in pools if p.type == protocol == "rbd" and name.startswith(f"{p.location}/")), None)
        if owner is not None:
            return "volume", f"{owner.name}:{name.removeprefix(f'{owner.location}/')}", False
        return "file", f"{protocol}:{name}", True
    if kind in ("nvme", "vhostuser"):  # a controller of the node, or a socket of a process there
        return "device", source.get("path") or f"{kind} {_pci_address(source)}".rstrip(), False
    where = source.get({"block": "dev", "dir": "dir"}.get(kind, "file"))
    if not where:
        return "empty", "none", False
    for pool_ in pools:
        if pool_.location and pool_.type != "rbd" and where.startswith(f"{pool_.location}/"):
            return "volume", f"{pool_.name}:{where.removeprefix(f'{pool_.location}/')}", False
    return ("device" if where.startswith("/dev/") else "file"), where, False


def _condition(drive: Drive, shared: Mapping[str, bool]) -> Condition | None:
    if drive.shared or drive.kind == "empty":
        return None
    pool = drive.source.partition(":")[0]
    if drive.kind == "cdrom":
        if shared.get(pool):
            return None
        return Condition(
            drive.slot, "local-iso", f"{drive.slot} holds {drive.source}, which other nodes lack: eject it"
        )
    if drive.kind == "device":
        return Condition(drive.slot, "device", f"{drive.slot} is the node's device {drive.source}")
    if drive.kind == "file":
        return Condition(drive.slot, "local-file", f"{drive.slot} is the file {drive.source}, outside of any pool")
    return None


def _passed_through(root: Element) -> list[Condition]:
    found = []
    for number, device in enumerate(root.iterfind("devices/hostdev")):
        message = f"a {device.get('type', 'host')} device of the node is passed to the guest"
        found.append(Condition(f"hostdev{number}", "device", message))
    for number, mount in enumerate(root.iterfind("devices/filesystem")):
        message = f"{_attribute(mount, 'source', 'dir') or 'a directory'} of the node is mounted in the guest"
        found.append(Condition(f"filesystem{number}", "bind-mount", message))
    return found


def _text(element: Element, path: str) -> str | None:
    found = element.findtext(path)
    return found.strip() or None if found is not None else None


def _attribute(element: Element, path: str, name: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.get(name)


def _pci_address(source: Element) -> str:
    address = source.find("address")
    found = {} if address is None else address.attrib
    parts = [found.get(key, "").removeprefix("0x") for key in ("domain", "bus", "slot", "function")]
    return "{}:{}:{}.{}".format(*parts) if all(parts) else ""


def _address(host: Element) -> str:
    name, port = host.get("name", ""), host.get("port")
    name = f"[{name}]" if values.is_ip(name, 6) else name
    return f"{name}:{port}" if port else name
