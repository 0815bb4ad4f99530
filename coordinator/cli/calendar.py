"""`holdfast calendar`: when a calendar event fires."""

from datetime import UTC, datetime, tzinfo

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.proxmox.calendar import CalendarError, CalendarEvent


@click.command("calendar")
@click.argument("expression", metavar="EXPR")
@click.option("--after", type=inputs.Instant(), help="Look strictly after this time; now, if not given.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many times.")
@inputs.zone_option
@inputs.output_option
def calendar(expression: str, after: datetime | None, count: int, zone: tzinfo, output: str) -> None:
    """Print when EXPR fires next, as Proxmox's scheduler would have it. A lone number is a minute."""
    try:
        event = CalendarEvent.parse(expression)
    except CalendarError as error:
        raise Failed(str(error)) from None
    instant = inputs.within(after, zone) if after is not None else datetime.now(UTC)
    times: list[str] = []
    while len(times) < count and (following := event.next_after(instant, zone)) is not None:
        instant = following
        times.append(following.astimezone(zone).isoformat())
    if output == "json":
        inputs.echo_json(times)
        return
    for time in times:
        click.echo(time)
