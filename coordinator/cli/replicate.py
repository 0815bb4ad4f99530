"""`replicate VMID --now`: asks for a new point, and waits until every target has one that is newer than the request."""

import asyncio
import getpass
import secrets
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click
from holdfast.coordinator.cli.agents import ask
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import Failed, clean, duration, size
from holdfast.coordinator.cli.state import load, read
from holdfast.coordinator.grouped import TaskGroup, ungrouped
from holdfast.coordinator.model.answers import Progress
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.status import GuestStatus, State, Status
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.port import Put, Store, absent

_LOOK = 1.0
_GRACE = 5.0
"""Seconds for which a condition must hold: one that stood when the request was made may end by it."""
_PASSING = frozenset({"DuplicateTarget", "NoReport"})


@click.command()
@click.argument("vmid", type=int)
@click.option("--now", is_flag=True, required=True, help="At once, whatever the schedule says (the only way so far).")
@click.option("--no-wait", is_flag=True, help="Return as soon as the request is written.")
@click.option("--timeout", type=click.FloatRange(min=1), default=3600, show_default=True, help="Seconds to wait.")
@pass_connection
def replicate(connection: Connection, vmid: int, now: bool, no_wait: bool, timeout: float) -> None:
    """Take a new recovery point of a guest and bring it to every target."""

    async def work(store: Store) -> None:
        state = await load(store, connection.keyspace)
        row = _row(state.status(), vmid)
        if row.state in (State.UNPROTECTED, State.OBSERVED):
            raise Failed(f"guest {vmid} is not replicated. {_conditions(row) or 'Its mode is observe.'}")
        asked = datetime.now(UTC)
        await _request(store, connection, vmid, asked)
        if no_wait:
            click.echo(f"Asked for a new point of guest {vmid}.")
            return
        cache = Cache(store, connection.keyspace.root)
        async with TaskGroup() as group:
            following = group.create_task(cache.run())
            try:
                async with asyncio.timeout(timeout):
                    await _wait(cache, connection, vmid, asked)
            except TimeoutError:
                raise Failed(
                    f"after {duration(timeout)} not every target of guest {vmid} has a new point; the request stands."
                    f" See holdfast explain {vmid} and holdfast status --watch"
                ) from None
            following.cancel()

    with ungrouped():
        connection.run(work)


def _row(view: Status, vmid: int) -> GuestStatus:
    row = next((guest for guest in view.guests if guest.vmid == vmid), None)
    if row is None:
        raise Failed(f"guest {vmid} is not known; holdfast get guest lists those that are")
    return row


def _conditions(row: GuestStatus) -> str:
    return " ".join(f"{c.reason}: {c.message}" for c in row.conditions)


async def _request(store: Store, connection: Connection, vmid: int, asked: datetime) -> None:
    id = f"replicate-{vmid}-{secrets.token_hex(6)}"
    key = connection.keyspace.desired("requests", id)
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    request = Request(action="replicate", vmid=vmid, asked=asked, by=by)
    await store.transact([absent(key)], [Put(key, request.to_json())])


async def _wait(cache: Cache, connection: Connection, vmid: int, asked: datetime) -> None:
    """Until every target is at least as new as the request. Failed when the guest's agent says why it cannot be."""
    await cache.synced.wait()
    started, said = time.monotonic(), ""
    hindered: float | None = None
    while True:
        state = read(connection.keyspace, cache.prefix(connection.keyspace.root), cache.revision)
        row = _row(state.status(), vmid)
        behind = [t for t in row.targets if t.last is None or t.last.instant < _floor(asked)]
        if not behind and row.targets:
            for target in row.targets:
                assert target.last is not None
                click.echo(clean(f"{target.node}: point {target.last.epoch}-{target.last.sequence} is complete"))
            click.echo(f"Guest {vmid} is replicated, after {duration(time.monotonic() - started)}.")
            return
        if all(c.reason in _PASSING for c in row.conditions):
            hindered = None
        elif hindered is None:
            hindered = time.monotonic()
        elif time.monotonic() - hindered > _GRACE:
            raise Failed(f"guest {vmid} cannot be replicated now. {_conditions(row)} The request stands for a day")
        waiting = ", ".join(target.node for target in behind)
        progress = await ask(state.desired.nodes, "/v1/progress", Progress, connection.agents)
        running = [
            f"{t.disk} to {t.target} {size(t.bytes)}{f' of {size(t.total)}' if t.total else ''}"
            for given in progress.given.values()
            for t in given.transfers
            if t.vmid == vmid
        ]
        line = f"waiting for {waiting}" + (f": {', '.join(running)}" if running else "")
        if line != said:
            said = line
            click.echo(clean(line), err=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await cache.changed(cache.revision)


def _floor(asked: datetime) -> datetime:
    """Records keep milliseconds: the request as the agent reads it."""
    return asked - timedelta(microseconds=asked.microsecond % 1000)
