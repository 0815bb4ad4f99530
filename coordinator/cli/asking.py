"""Requests that one node is to carry out: written, and waited for until that node says what became of them."""

import asyncio
import getpass
import secrets
import socket
from datetime import UTC, datetime
from typing import Any, Literal

import click
from holdfast.coordinator.cli.connection import Connection
from holdfast.coordinator.cli.output import Failed, clean, duration
from holdfast.coordinator.cli.state import State
from holdfast.coordinator.model.point import PointId
from holdfast.coordinator.model.report import RequestReport, RequestState
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.desired import describe
from holdfast.coordinator.store.port import Put, Store, absent
from pydantic import ValidationError

_LOOK = 0.5
"""Seconds between looks."""

TIMEOUT = click.option(
    "--timeout",
    "patience",
    type=click.FloatRange(min=1),
    default=600,
    show_default=True,
    help="Seconds to wait for the outcome.",
)


class PointParameter(click.ParamType[PointId]):
    """A recovery point, as EPOCH-SEQUENCE."""

    name = "point"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PointId:
        """Read it."""
        if isinstance(value, PointId):
            return value
        try:
            return PointId.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def owner_of(state: State, vmid: int) -> str:
    """The node that owns a guest. Failed where there is none."""
    owner = state.owners.get(vmid)
    if owner is None:
        why = "has no owner yet" if vmid in state.desired.guests else "is not known"
        raise Failed(f"guest {vmid} {why}; holdfast explain {vmid} says more")
    return owner.node


async def ask_for(
    store: Store,
    connection: Connection,
    patience: float,
    action: Literal["rollback", "clone", "mount", "unclone"],
    vmid: int,
    node: str,
    **more: Any,
) -> str:
    """Write a request, wait until it is settled, and withdraw it. Returns what was done; Failed if it was refused."""
    keys = connection.keyspace
    id = f"{action}-{vmid}-{secrets.token_hex(6)}"
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    try:
        request = Request(action=action, vmid=vmid, asked=datetime.now(UTC), by=by, node=node, **more)
    except ValidationError as error:
        raise click.UsageError(describe(error)) from None
    key = keys.desired("requests", id)
    await store.transact([absent(key)], [Put(key, request.to_json())])
    try:
        async with asyncio.timeout(patience):
            said = await _settled(store, keys.request_report(node, id))
    except TimeoutError:
        raise Failed(
            f"after {duration(patience)} {node} has not ended it; the request stands. Does its agent run? See holdfast"
            f" status, and {keys.request_report(node, id)} in etcd for how far it is"
        ) from None
    await store.delete(key)
    if said.state is not RequestState.DONE:
        raise Failed(f"{node} refused: {said.message}")
    return said.message


async def _settled(store: Store, key: str) -> RequestReport:
    told = ""
    while True:
        item = await store.get(key)
        said = RequestReport.model_validate_json(item.value) if item else None
        if said is not None and said.settled:
            return said
        line = f"{said.state}: {said.message}" if said else "waiting for the node's agent"
        if line != told:
            told = line
            click.echo(clean(line), err=True)
        await asyncio.sleep(_LOOK)
