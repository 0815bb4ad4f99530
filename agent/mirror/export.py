"""Desired storages → a file in storage.cfg's format, for nodes without Proxmox and the tools that read such a file."""

import asyncio
import contextlib
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import structlog
from holdfast.agent.ports import Host
from holdfast.coordinator.mirror.records import render_storages
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.store.cache import Cache, Change
from pydantic import ValidationError

log = structlog.get_logger()


class StorageExport:
    """Keeps one file as the keyspace has the storages. A record that cannot be written leaves its section as it is."""

    def __init__(self, cache: Cache, keyspace: Keyspace, path: Path, host: Host) -> None:
        """`cache`: one that has the desired storages."""
        self._cache = cache
        self._prefix = keyspace.desired("storage", "")
        self._path = path
        self._host = host

    async def run(self) -> None:
        """Write the file whenever it differs; ends only when cancelled."""
        changed = asyncio.Event()

        def wake(_: Change) -> None:
            changed.set()

        end = self._cache.subscribe(self._prefix, wake)
        try:
            await self._cache.synced.wait()
            while True:
                changed.clear()
                await self._host.blocking(partial(write, self._path, *self._storages()))
                await changed.wait()
        finally:
            end()

    def _storages(self) -> tuple[dict[str, Storage], set[str]]:
        found, unreadable = {}, set()
        for kv in self._cache.prefix(self._prefix):
            name = kv.key.removeprefix(self._prefix)
            try:
                found[name] = Storage.model_validate_json(kv.value)
            except ValidationError as error:
                unreadable.add(name)
                log.warning("export.unreadable", storage=name, reason=str(error.errors()[0]["msg"]))
        return found, unreadable


def write(path: Path, storages: Mapping[str, Storage], unreadable: Collection[str] = ()) -> bool:
    """Bring the file up to date in one step; False if it was already, or cannot be written."""
    try:
        existing = path.read_bytes() if path.exists() else b""
        wanted, problems = render_storages(existing, storages, unreadable)
        for problem in problems:
            log.warning("export.refused", reason=problem)
        if wanted == existing:
            return False
        _replace(path, wanted)
    except OSError as error:
        log.warning("export.failed", path=str(path), reason=str(error))
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
