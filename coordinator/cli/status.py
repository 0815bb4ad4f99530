"""`status`: how well every guest is protected, once or live.

The JSON of `-o json` (one object; names are stable, more may be added):

    at        when it was computed, RFC 3339
    guests    [{vmid, name, type, mode, owner: {node, epoch} | null, state,
                targets: [{node, policy, state, last: {id, instant, consistency, disks, size} | null,
                           fresh_at, lag_seconds, rpo_seconds, schedule}],
                conditions: [{reason, message, target, since}]}]
    problems  [{key, reason, message, in_force}]      records that are not in force as written
    agents    [{node, version, started, seen, conditions}]
    summary   {guests, healthy, breached, unprotected, syncing, observed}

`state` is healthy, breached, unprotected, `syncing first` or observe; sizes are bytes; what is not known is null.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

import click
import orjson
from holdfast.coordinator.cli.agents import Answers, ask
from holdfast.coordinator.cli.connection import Connection, pass_connection
from holdfast.coordinator.cli.output import clean, console, duration, line, moment, show, size, span, table, together
from holdfast.coordinator.cli.state import State, load, read
from holdfast.coordinator.grouped import TaskGroup
from holdfast.coordinator.model.answers import Progress, Transfer
from holdfast.coordinator.model.condition import Condition
from holdfast.coordinator.planning.status import GuestStatus, Status, TargetStatus
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.port import Store
from rich.console import RenderableType
from rich.live import Live

HEADERS = ("VMID", "NAME", "OWNER", "POLICY", "TARGET", "LAST POINT", "LAG", "RPO", "STATE")
_TRANSFER_HEADERS = ("VMID", "DISK", "FROM", "TO", "DONE", "OF", "RATE", "FOR")
_REFRESH = 1.0
"""Seconds between two looks: lag and progress move without any change in etcd."""
_STALE = 5.0
"""Seconds without a word of etcd after which that is said."""


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing it, with the transfers that run.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_connection
def status(connection: Connection, watch: bool, output: str) -> None:
    """Show how well every guest is protected: where its replicas are, how old, and what is wrong."""
    if watch and output == "json":
        raise click.UsageError("--watch shows tables; for programs, call status -o json again and again")
    if watch:
        with suppress(KeyboardInterrupt):
            connection.run(lambda store: _watch(store, connection))
        return

    async def work(store: Store) -> State:
        return await load(store, connection.keyspace)

    view = connection.run(work).status()
    if output == "json":
        click.echo(orjson.dumps(as_json(view), option=orjson.OPT_INDENT_2).decode())
    else:
        show(*parts(view, console().is_terminal))


def parts(view: Status, terminal: bool) -> list[RenderableType]:
    """The table, what is wrong beneath it, and the count."""
    rows = [row for guest in view.guests for row in _rows(guest)]
    shown: list[RenderableType] = [table(HEADERS, rows, terminal)] if rows else []
    wrong = [
        *(line(f"{guest.vmid} {_said(condition)}") for guest in view.guests for condition in guest.conditions),
        *(line(f"{node} {_said(c)}") for node, agent in sorted(view.agents.items()) for c in agent.conditions),
        *(
            line(f"{p.key.removeprefix('desired/')} {_said(p.condition)} In force: {p.in_force}.")
            for p in view.problems
        ),
    ]
    if wrong:
        shown += [line(""), *wrong]
    return [*shown, *([line("")] if shown else []), line(str(view.summary))]


def _said(condition: Condition) -> str:
    since = f" (since {moment(condition.since)})" if condition.since else ""
    return f"{condition.reason}{since}: {condition.message}"


def _rows(guest: GuestStatus) -> list[Sequence[str]]:
    owner = f"{guest.owner.node} ({guest.owner.epoch})" if guest.owner else "-"
    first = (str(guest.vmid), guest.name or "-", owner)
    if not guest.targets:
        return [(*first, "-", "-", "-", "-", "-", guest.state)]
    rows: list[Sequence[str]] = []
    for target in guest.targets:
        # one target: the guest's state is told; of several, each tells its own
        state = guest.state if len(guest.targets) == 1 else target.state
        rows.append((*first, *target_cells(target), state))
    return rows


def target_cells(target: TargetStatus) -> tuple[str, str, str, str, str]:
    """Policy, target, last point, lag and RPO."""
    wanted = span(target.rpo) if target.rpo is not None else target.schedule or "-"
    last = f"{target.last.epoch}-{target.last.sequence}" if target.last else "-"
    return target.policy, target.node, last, duration(target.lag), wanted


def as_json(view: Status) -> dict[str, object]:
    """What `-o json` prints; the module's docstring says what it holds."""
    return {
        "at": moment(view.at),
        "guests": [_guest_json(guest) for guest in view.guests],
        "problems": [
            {"key": p.key, "reason": p.condition.reason, "message": p.condition.message, "in_force": p.in_force}
            for p in view.problems
        ],
        "agents": [
            {
                "node": node,
                "version": agent.version,
                "started": moment(agent.started),
                "seen": moment(agent.seen),
                "conditions": [_condition_json(c) for c in agent.conditions],
            }
            for node, agent in sorted(view.agents.items())
        ],
        "summary": asdict(view.summary),
    }


def _guest_json(guest: GuestStatus) -> dict[str, object]:
    return {
        "vmid": guest.vmid,
        "name": guest.name,
        "type": guest.type or None,
        "mode": guest.mode,
        "owner": {"node": guest.owner.node, "epoch": guest.owner.epoch} if guest.owner else None,
        "state": guest.state,
        "targets": [
            {
                "node": target.node,
                "policy": target.policy,
                "state": target.state,
                "last": {
                    "id": f"{target.last.epoch}-{target.last.sequence}",
                    "instant": target.last.instant,
                    "consistency": target.last.consistency,
                    "disks": target.last.disks,
                    "size": target.last.size,
                }
                if target.last
                else None,
                "fresh_at": target.fresh_at,
                "lag_seconds": target.lag,
                "rpo_seconds": target.rpo,
                "schedule": target.schedule,
            }
            for target in guest.targets
        ],
        "conditions": [_condition_json(c) for c in guest.conditions],
    }


def _condition_json(condition: Condition) -> dict[str, object]:
    return {
        "reason": condition.reason,
        "message": condition.message,
        "target": condition.target,
        "since": condition.since,
    }


def transfer_parts(answers: Answers[Progress], terminal: bool) -> list[RenderableType]:
    """Running transfers, and agents that did not answer."""
    running = [(node, t) for node, progress in sorted(answers.given.items()) for t in progress.transfers]
    shown: list[RenderableType] = []
    if running:
        shown += [line(""), table(_TRANSFER_HEADERS, [_transfer(node, t) for node, t in running], terminal)]
    if answers.silent:
        shown += [line(""), *(line(f"{node}: {why}") for node, why in answers.silent.items())]
    return shown


def _transfer(node: str, transfer: Transfer) -> Sequence[str]:
    of = f"{size(transfer.total)} ({100 * transfer.bytes // transfer.total}%)" if transfer.total else "-"
    rate = f"{size(transfer.bytes_per_second)}/s"
    done, since = size(transfer.bytes), duration(transfer.seconds)
    return (str(transfer.vmid), transfer.disk, node, transfer.target, done, of, rate, since)


def signature(view: Status, answers: Answers[Progress]) -> object:
    """What must change for a new block to be printed: everything but the passing of time."""
    return (
        [
            (g.vmid, g.owner, g.state, g.conditions, [(t.node, t.policy, t.last, t.state) for t in g.targets])
            for g in view.guests
        ],
        view.problems,
        [(node, t.vmid, t.disk, t.target) for node, p in sorted(answers.given.items()) for t in p.transfers],
        sorted(answers.silent),
    )


async def _watch(store: Store, connection: Connection) -> None:
    cache = Cache(store, connection.keyspace.root)
    async with TaskGroup() as group:
        group.create_task(cache.run())
        await _show_until_interrupted(cache, connection)


async def _show_until_interrupted(cache: Cache, connection: Connection) -> None:
    out = console()
    with Live(console=out, auto_refresh=False, screen=False, transient=False) if out.is_terminal else _Piped() as live:
        while True:
            state = await _current(cache, connection)
            view = state.status(datetime.now(UTC))
            answers = await ask(state.desired.nodes, "/v1/progress", Progress, connection.agents)
            shown = [*parts(view, out.is_terminal), *transfer_parts(answers, out.is_terminal)]
            if cache.staleness() > _STALE:
                shown.append(line(f"etcd has not answered for {duration(cache.staleness())}: this may be out of date"))
            if isinstance(live, Live):
                live.update(together([line(moment(view.at)), *shown]), refresh=True)
            else:
                live.print(moment(view.at), shown, signature(view, answers))
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH):
                    await cache.changed(cache.revision)


async def _current(cache: Cache, connection: Connection) -> State:
    if not cache.synced.is_set():
        try:
            async with asyncio.timeout(15):
                await cache.synced.wait()
        except TimeoutError:
            click.echo("holdfast: etcd does not answer yet; still trying", err=True)
            await cache.synced.wait()
    return read(connection.keyspace, cache.prefix(connection.keyspace.root), cache.revision)


class _Piped:
    """A block at each change, headed by the time."""

    def __init__(self) -> None:
        self._last: object = None

    def __enter__(self) -> "_Piped":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def print(self, at: str, shown: Sequence[RenderableType], signature: object) -> None:
        if signature == self._last:
            return
        self._last = signature
        show(line(f"== {clean(at)}"), *shown, line(""))
        sys.stdout.flush()
