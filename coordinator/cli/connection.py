"""From the synchronous command line to etcd: one event loop, one client, errors in operators' words."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import click
from holdfast.coordinator.cli.agents import Access
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.config import EtcdSettings
from holdfast.coordinator.grouped import ungrouped
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.port import Store, StoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connection:
    """The global options, checked."""

    settings: EtcdSettings

    @property
    def keyspace(self) -> Keyspace:
        """The keys of the chosen cluster."""
        return self.settings.keyspace

    @property
    def agents(self) -> Access:
        """How the agents are reached."""
        return Access(self.settings.ca, self.settings.cert, self.settings.key)

    def run(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Do the work on a client; Failed for everything that an operator can meet."""

        async def do() -> T:
            async with self.settings.store() as store:
                return await work(store)

        try:
            with ungrouped():
                return asyncio.run(do())
        except StoreError as error:
            raise Failed(str(error)) from None
        except OSError as error:
            raise Failed(f"{error}. Check the paths of ca, cert and key") from None


pass_connection = click.make_pass_decorator(Connection)
