"""Fuzzing of every parser of Proxmox's and libvirt's files. By hand, ten minutes each:

    uv run --frozen --with atheris python tests/fuzz/formats.py storage -max_total_time=600

A parser may raise its own error only, and rendering must give the bytes back. What is found becomes a unit test.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import atheris

with atheris.instrument_imports():
    from holdfast.coordinator.model.keep import Keep, RetentionError
    from holdfast.coordinator.proxmox import drives, replicability, values, volumes
    from holdfast.coordinator.proxmox.calendar import CalendarError, CalendarEvent
    from holdfast.coordinator.proxmox.datacenter import DatacenterConfig
    from holdfast.coordinator.proxmox.duration import SpanError, parse_span
    from holdfast.coordinator.proxmox.guest_config import GuestConfig
    from holdfast.coordinator.proxmox.ha import HaConfig
    from holdfast.coordinator.proxmox.libvirt import LibvirtError, parse_domain, parse_pool
    from holdfast.coordinator.proxmox.replication import ReplicationConfig
    from holdfast.coordinator.proxmox.storage_config import StorageConfig, StorageConfigError
    from holdfast.coordinator.proxmox.storage_types import TYPES
    from holdfast.coordinator.proxmox.users import UserConfig

PVE = Path(__file__).parents[1] / "fixtures" / "pve"
STORAGES = StorageConfig.parse((PVE / "storage.cfg").read_bytes()).storages
BERLIN = ZoneInfo("Europe/Berlin")
TYPE_NAMES = sorted(TYPES)


def storage(data: bytes) -> None:
    config = StorageConfig.parse(data)
    assert config.render() == data
    with suppress(StorageConfigError):
        edited = config.with_section("edited", "dir", {"path": "/edited"})
        assert "edited" in edited.storages
        assert set(edited.without_section("edited").storages) == set(config.storages) - {"edited"}


def guest(data: bytes) -> None:
    for kind in ("qemu", "lxc"):
        config = GuestConfig.parse(kind, 101, data)
        assert config.render() == data
        replicability.replicated_volumes(config, STORAGES)
        replicability.conditions(config, STORAGES)


def volume(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with suppress(volumes.VolumeError):
        assert (
            volumes.parse(text[1:], TYPE_NAMES[ord(text[0]) % len(TYPE_NAMES)] if text else "dir").volname == text[1:]
        )
    with suppress(volumes.VolumeError):
        volumes.volume_id_of_path(text, STORAGES.values())
    with suppress(volumes.VolumeError):
        volumes.archive(text, UTC)


def drive(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for kind, slot in (("qemu", "scsi0"), ("qemu", "efidisk0"), ("lxc", "mp0"), ("lxc", "rootfs")):
        with suppress(values.ValueRefused):
            drives.parse(kind, slot, text)


def calendar(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    now = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    with suppress(CalendarError):
        following = CalendarEvent.parse(text).next_after(now, BERLIN)
        assert following is None or following > now


def span(data: bytes) -> None:
    with suppress(SpanError):
        assert parse_span(data.decode("utf-8", "surrogateescape")) >= 0


def keep(data: bytes) -> None:
    with suppress(RetentionError):
        Keep.parse(data.decode("utf-8", "surrogateescape"))


def cluster(data: bytes) -> None:
    ReplicationConfig.parse(data)
    DatacenterConfig.parse(data)
    HaConfig.parse(data, data)
    UserConfig.parse(data)


def libvirt(data: bytes) -> None:
    with suppress(LibvirtError):
        parse_pool(data)
    with suppress(LibvirtError):
        parse_domain(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (storage, guest, volume, drive, calendar, span, keep, cluster, libvirt)
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(TARGETS)}}} [libFuzzer options]")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
