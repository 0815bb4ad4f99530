"""Commands that change who may use etcd, as its administrator."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

from holdfast.coordinator.access import Access
from holdfast.coordinator.cli.machine import Machine
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.grouped import ungrouped
from holdfast.coordinator.identity.identity import Role
from holdfast.coordinator.store.port import Store, StoreError
from holdfast.coordinator.store.tls import Tls

T = TypeVar("T")


def as_admin(settings: EtcdSettings, machine: Machine, work: Callable[[Access, Store], Awaitable[T]]) -> T:
    """Do the work with the administrator's certificate. Failed."""
    if not machine.has(Role.ADMIN):
        raise Failed(f"{machine.certificate(Role.ADMIN)} is not here; this is for the machine where holdfast init ran")
    if any(urlsplit(endpoint).scheme != "https" for endpoint in settings.endpoints):
        raise Failed(
            "etcd must be spoken to by https://, else it cannot know who asks: give --endpoint https://HOST:2379"
        )
    own = {"ca": machine.ca, "cert": machine.certificate(Role.ADMIN), "key": machine.key(Role.ADMIN)}
    settings = settings.model_copy(update=own)

    async def do() -> T:
        hosts = [urlsplit(endpoint).netloc for endpoint in settings.endpoints]
        access = Access(hosts, Tls(machine.ca, own["cert"], own["key"]))
        try:
            async with settings.store() as store:
                return await work(access, store)
        finally:
            await access.close()

    try:
        with ungrouped():
            return asyncio.run(do())
    except (StoreError, OSError) as error:
        raise Failed(str(error)) from None
