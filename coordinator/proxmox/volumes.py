"""Volume names: what they mean on each storage type, where they lie, and the next free one.

Source of the rules: the behaviour of pve-storage's plugins (parse_volname, path, path_to_volume_id,
get_next_vm_diskname). A volume is `STOREID:volname`; this module is about the part after the colon.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

from . import values
from .storage_config import Storage
from .storage_types import CONTENT_DIRECTORIES, TYPES

MAX_VOLUMES_PER_GUEST = 1024

COMPRESSIONS = ("gz", "lzo", "zst", "bz2")
_SAFE = r"[ a-zA-Z0-9\-.+=_]"
_ISO = r"[^/]+\.(?:iso|img)"
_TEMPLATE = r"[^/]+\.tar(?:\.(?:gz|xz|zst|bz2))?"
_BACKUP = rf"[^/]+\.(?:tgz|(?:tar|vma)(?:\.(?:{'|'.join(COMPRESSIONS)}))?)"
_IMAGE_FILE = re.compile(r"(vm-|base-|subvol-)([0-9]+)-[^/\s]+\.(raw|qcow2|vmdk|subvol)", re.ASCII)
_LVM_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_.]*[a-zA-Z0-9]")


class VolumeError(ValueError):
    """A name that is no volume on this type of storage, or no volume's path."""


@dataclass(frozen=True)
class Volume:
    """What a volume's name says. `name` is the file or dataset; `basename` the base image of a linked clone."""

    volname: str
    vtype: str
    name: str
    vmid: int | None = None
    basename: str | None = None
    basevmid: int | None = None
    is_base: bool = False
    format: str | None = "raw"


def parse(volname: str, storage_type: str) -> Volume:
    """Read a volume's name as it stands on a type of storage; raises VolumeError."""
    if storage_type not in TYPES:
        raise VolumeError(f"storage type {storage_type!r} is not known; types are {', '.join(TYPES)}")
    volume = _PARSERS.get(storage_type, _on_directory)(volname)
    if volume is None:
        raise VolumeError(f"{volname!r} is no volume name of storage type {storage_type!r}")
    return volume


def _on_directory(volname: str) -> Volume | None:
    clone = re.fullmatch(r"([0-9]+)/(\S+)/([0-9]+)/(\S+)", volname, re.ASCII)
    if clone and _IMAGE_FILE.fullmatch(clone[2]):
        return _image_file(volname, clone[3], clone[4], clone[2], clone[1])
    if image := re.fullmatch(r"([0-9]+)/(\S+)", volname, re.ASCII):
        return _image_file(volname, image[1], image[2])
    vtype, slash, name = volname.partition("/")
    if not slash or not name:
        return None
    if vtype == "iso":
        return Volume(volname, vtype, name) if re.fullmatch(_ISO, name, re.IGNORECASE | re.ASCII) else None
    if vtype == "vztmpl":
        return Volume(volname, vtype, name) if re.fullmatch(_TEMPLATE, name, re.IGNORECASE | re.ASCII) else None
    if vtype == "rootdir":
        if not re.fullmatch("[0-9]+", name):
            return None
        return Volume(volname, vtype, name, vmid=_vmid(name), format=None)
    if vtype == "backup" and re.fullmatch(_BACKUP, name):
        guest = re.match(r"vzdump-(?:openvz|lxc|qemu)-([0-9]+)-.", name)
        return Volume(volname, vtype, name, vmid=_vmid(guest[1]) if guest else None)
    if vtype == "snippets":
        return Volume(volname, vtype, name) if "/" not in name else None
    if vtype == "import":
        return _import(volname, name)
    return None


def _image_file(
    volname: str, vmid: str, name: str, basename: str | None = None, basevmid: str | None = None
) -> Volume | None:
    match = _IMAGE_FILE.fullmatch(name)
    if match is None:
        return None
    base = None if basevmid is None else _vmid(basevmid)
    return Volume(volname, "images", name, _vmid(vmid), basename, base, match[1] == "base-", match[3])


def _import(volname: str, name: str) -> Volume | None:
    packed = re.fullmatch(rf"{_SAFE}+\.ova/{_SAFE}+\.(qcow2|raw|vmdk)", name)
    if packed:
        return Volume(volname, "import", name, format=f"ova+{packed[1]}")
    plain = re.fullmatch(rf"{_SAFE}+\.(ova|ovf|qcow2|raw|vmdk)", name)
    return Volume(volname, "import", name, format=plain[1]) if plain else None


def _on_zfs(volname: str) -> Volume | None:
    pattern = r"(?:((?:base|basevol)-([0-9]+)-\S+)/)?((base|basevol|vm|subvol)-([0-9]+)-\S+)"
    match = re.fullmatch(pattern, volname, re.ASCII)
    if match is None:
        return None
    image_format = "subvol" if match[4] in ("subvol", "basevol") else "raw"
    return _clone(volname, match[3], match[5], match[1], match[2], match[4] in ("base", "basevol"), image_format)


def _on_rbd(volname: str) -> Volume | None:
    match = re.fullmatch(r"(?:(base-([0-9]+)-\S+)/)?((base)?(?:vm)?-([0-9]+)-\S+)", volname, re.ASCII)
    if match is None:
        return None
    return _clone(volname, match[3], match[5], match[1], match[2], match[4] is not None, "raw")


def _clone(
    volname: str, name: str, vmid: str, basename: str | None, basevmid: str | None, is_base: bool, image_format: str
) -> Volume:
    base = None if basevmid is None else _vmid(basevmid)
    return Volume(volname, "images", name, _vmid(vmid), basename, base, is_base, image_format)


def _on_lvm(volname: str) -> Volume | None:
    match = re.fullmatch(r"vm-([0-9]+)-\S+", volname, re.ASCII)
    if match is None or not _LVM_NAME.fullmatch(volname):
        return None
    image_format = "qcow2" if volname.endswith(".qcow2") else "raw"
    return Volume(volname, "images", volname, _vmid(match[1]), format=image_format)


def _on_lvmthin(volname: str) -> Volume | None:
    match = re.fullmatch(r"(vm|base)-([0-9]+)-\S+", volname, re.ASCII)
    if match is None or not _LVM_NAME.fullmatch(volname):
        return None
    return Volume(volname, "images", volname, _vmid(match[2]), is_base=match[1] == "base")


def _on_drbd(volname: str) -> Volume | None:
    match = re.fullmatch(r"vm-([0-9]+)-[a-z][a-z0-9\-_.]*[a-z0-9]+", volname)
    return Volume(volname, "images", volname, _vmid(match[1])) if match else None


def _on_iscsi(volname: str) -> Volume | None:
    """`channel.id.lun.device`, the device's name below /dev/disk/by-id."""
    match = re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\.([^/\s]+)", volname, re.ASCII)
    return Volume(volname, "images", match[1]) if match else None


def _on_iscsidirect(volname: str) -> Volume | None:
    match = re.fullmatch(r"lun([0-9]+)", volname)
    return Volume(volname, "images", match[1]) if match else None


def _on_pbs(volname: str) -> Volume | None:
    match = re.fullmatch(
        r"backup/(([^\s_]+)/([^\s_]+)/([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z))", volname, re.ASCII
    )
    if match is None:
        return None
    of_a_guest = match[2] in ("vm", "ct") and re.fullmatch("[0-9]+", match[3])
    vmid = _vmid(match[3]) if of_a_guest else None
    return Volume(volname, "backup", match[1], vmid=vmid, format=f"pbs-{match[2]}")


def _on_esxi(volname: str) -> Volume | None:
    """`datacenter/datastore/path`; such volumes belong to no guest of ours, so their VMID is 0."""
    if not re.fullmatch(r"[^/]+/[^/]+/.+", volname):
        return None
    if volname.endswith(".vmx"):
        return Volume(volname, "import", volname, vmid=0, format="vmx")
    return Volume(volname, "images", volname, vmid=0, format="vmdk" if volname.endswith(".vmdk") else "raw")


_PARSERS: dict[str, Callable[[str], Volume | None]] = {
    "zfspool": _on_zfs,
    "zfs": _on_zfs,
    "rbd": _on_rbd,
    "lvm": _on_lvm,
    "lvmthin": _on_lvmthin,
    "drbd": _on_drbd,
    "iscsi": _on_iscsi,
    "iscsidirect": _on_iscsidirect,
    "pbs": _on_pbs,
    "esxi": _on_esxi,
}


def _vmid(digits: str) -> int:
    if len(digits) > 18:
        raise VolumeError(f"{digits[:20]}… is no VMID")
    return int(digits)


def path(volume: Volume, storage: Storage) -> str:
    """Return where a volume lies on a node: a file, a directory, a device or a URL.

    Raises VolumeError where only the storage itself knows: the LUN number of ZFS over iSCSI.
    """
    properties = storage.properties
    match storage.type:
        case "zfspool":
            if volume.format == "subvol":
                return f"{properties.get('mountpoint', '/' + properties['pool'])}/{volume.name}"
            return f"/dev/zvol/{properties['pool']}/{volume.name}"
        case "lvm" | "lvmthin":
            return f"/dev/{properties['vgname']}/{volume.name}"
        case "rbd":
            return f"rbd:{_rbd_image(volume, storage)}"
        case "iscsi":
            return f"/dev/disk/by-id/{volume.name}"
        case "iscsidirect":
            return f"iscsi://{properties['portal']}/{properties['target']}/{volume.name}"
        case "drbd":
            return f"/dev/drbd/by-res/{volume.volname}/0"
        case "esxi":
            return f"/run/pve/import/esxi/{storage.id}/mnt/{volume.volname}"
    if "path" not in properties:
        raise VolumeError(f"volumes of storage {storage.id!r} (type {storage.type}) have no path that its name tells")
    if volume.vtype != "images":
        return f"{_directory(storage, volume.vtype)}/{volume.name}"
    name = volume.name
    if storage.type == "btrfs" and volume.format == "raw":
        name = f"{name.removesuffix('.raw')}/disk.raw"
    return f"{_directory(storage, 'images')}/{volume.vmid}/{name}"


def _rbd_image(volume: Volume, storage: Storage) -> str:
    parts = (storage.properties.get("pool", "rbd"), storage.properties.get("namespace"), volume.name)
    return "/".join(part for part in parts if part is not None)


def _directory(storage: Storage, vtype: str) -> str:
    overrides = (part.partition("=") for part in values.split_list(storage.properties.get("content-dirs", "")))
    directory = {content: where for content, _, where in overrides}.get(vtype, CONTENT_DIRECTORIES[vtype])
    return f"{storage.properties['path']}/{directory}"


def volume_id_of_path(where: str, storages: Iterable[Storage]) -> str:
    """Return the volume ID of a path; the first storage that can hold it wins. Raises VolumeError.

    A volume ID is returned as it is, if its storage is one of directories. Beyond what Proxmox maps (files below a
    directory), devices and mount points of zfspool and LVM are mapped too. A linked clone's base image is not in its
    path, so the ID returned for one lacks it.
    """
    candidates = list(storages)
    if not where.startswith("/"):
        return _known_volume_id(where, candidates)
    where = "/" + posixpath.normpath(where).lstrip("/")
    for storage in candidates:
        if volname := _volname_of_path(where, storage):
            return f"{storage.id}:{volname}"
    raise VolumeError(f"{where!r} belongs to no storage that is configured")


def _known_volume_id(volume_id: str, storages: Iterable[Storage]) -> str:
    try:
        storage_id, volname = values.volume_id(volume_id)
    except values.ValueRefused:
        raise VolumeError(f"{volume_id!r} is neither an absolute path nor a volume ID") from None
    for storage in storages:
        if storage.id == storage_id and storage.known and "path" in storage.properties:
            parse(volname, storage.type)
            return volume_id
    raise VolumeError(f"{volume_id!r}: there is no storage {storage_id!r} with a path")


def _volname_of_path(where: str, storage: Storage) -> str | None:
    if storage.type in ("zfspool", "lvm", "lvmthin"):
        name = posixpath.basename(where)
        try:
            volume = parse(name, storage.type)
        except VolumeError:
            return None
        return name if posixpath.normpath(path(volume, storage)) == where else None
    if "path" not in storage.properties:
        return None
    for vtype in CONTENT_DIRECTORIES:
        directory = posixpath.normpath(_directory(storage, vtype))
        if not where.startswith(f"{directory}/"):
            continue
        rest = where.removeprefix(f"{directory}/")
        if storage.type == "btrfs" and vtype == "images":
            rest = re.sub(r"/disk\.raw$", ".raw", rest)
        volname = rest if vtype == "images" else f"{vtype}/{rest}"
        if vtype == "import" and (" " in rest or "/" in rest):
            continue
        try:
            volume = parse(volname, storage.type)
        except VolumeError:
            continue
        if volume.basename is None and (vtype != "images" or _lies_at(volume, storage, where)):
            return volname
    return None


def _lies_at(volume: Volume, storage: Storage, where: str) -> bool:
    """Whether an image is where its name says, in a format that is listed on this type of storage."""
    formats = TYPES["dir" if storage.type == "btrfs" else storage.type].formats
    return volume.format in formats and posixpath.normpath(path(volume, storage)) == where


def image_name(vmid: int, number: int, image_format: str, storage_type: str) -> str:
    """Return the volname of a guest's image as Proxmox would name it."""
    prefix = "subvol" if image_format == "subvol" else "vm"
    name = f"{prefix}-{vmid}-disk-{number}"
    if TYPES[storage_type].level == "file":
        return f"{vmid}/{name}.{image_format}"
    return f"{name}.qcow2" if image_format == "qcow2" else name


def next_image_name(vmid: int, image_format: str, storage_type: str, taken: Iterable[str]) -> str:
    """Return the volname with the lowest free number; raises VolumeError when all 1,024 are taken.

    Numbers are looked for as Proxmox does: on a type that has subvols, a number counts under any prefix and extension;
    elsewhere only with the same extension.
    """
    if "subvol" in TYPES[storage_type].formats:
        pattern = re.compile(rf"(?:vm|base|subvol|basevol)-{vmid}-disk-([0-9]+)")
    else:
        with_suffix = TYPES[storage_type].level == "file" or image_format == "qcow2"
        suffix = rf".{image_format}" if with_suffix else ""
        pattern = re.compile(rf"(?:vm|base)-{vmid}-disk-([0-9]+){suffix}")
    numbers = {match[1] for name in taken if (match := pattern.search(name))}
    for number in range(MAX_VOLUMES_PER_GUEST):
        if str(number) not in numbers:
            return image_name(vmid, number, image_format, storage_type)
    raise VolumeError(f"guest {vmid} has {MAX_VOLUMES_PER_GUEST} volumes on this storage already: remove unused ones")


@dataclass(frozen=True)
class Archive:
    """What a backup archive's name says; `time` only where the name is Proxmox's standard one."""

    guest_type: str
    format: str
    compression: str | None
    vmid: int | None
    time: datetime | None


def archive(name: str, zone: tzinfo) -> Archive:
    """Read a backup archive's file name; its time is on the clock of `zone`. Raises VolumeError."""
    match = re.fullmatch(rf"vzdump-(lxc|openvz|qemu)-.+\.(tgz|(?:tar|vma)(?:\.({'|'.join(COMPRESSIONS)}))?)", name)
    if match is None:
        raise VolumeError(f"{name!r} is no backup archive's name")
    extension, compression = match[2], match[3]
    image_format, compression = ("tar", "gz") if extension == "tgz" else (extension.partition(".")[0], compression)
    standard = re.fullmatch(
        r"vzdump-[a-z]+-([1-9][0-9]{2,8})-([0-9]{4})_([0-9]{2})_([0-9]{2})-([0-9]{2})_([0-9]{2})_([0-9]{2})",
        name.removesuffix(f".{extension}"),
    )
    if standard is None:
        return Archive(match[1], image_format, compression, None, None)
    year, month, day, hour, minute, second = (int(part) for part in standard.groups()[1:])
    try:
        time = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError as error:
        raise VolumeError(f"{name!r}: {error}") from None
    return Archive(match[1], image_format, compression, int(standard[1]), time)
