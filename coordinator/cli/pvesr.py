"""`holdfast pvesr`: what Proxmox's own replication would do."""

from datetime import datetime, tzinfo

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import Failed
from holdfast.coordinator.proxmox import replication
from holdfast.coordinator.proxmox.calendar import CalendarError


@click.group("pvesr")
def pvesr() -> None:
    """Proxmox's own replication jobs."""


@pvesr.command("next")
@click.option("--schedule", default=replication.DEFAULT_SCHEDULE, show_default=True, help="The job's calendar event.")
@click.option("--last-try", required=True, type=inputs.Instant(), help="When the job was last tried.")
@click.option("--fails", type=click.IntRange(min=0), default=0, show_default=True, help="Failures in a row since.")
@click.option("--target-offline", is_flag=True, help="The target node is not online.")
@inputs.zone_option
@inputs.output_option
def next_sync(schedule: str, last_try: datetime, fails: int, target_offline: bool, zone: tzinfo, output: str) -> None:
    """Print when a job is tried next.

    After failures that is 5, 10, 15, then 30 minutes after the last try, and never while the target is offline.
    """
    try:
        following = replication.next_sync(
            schedule, inputs.within(last_try, zone), fails, zone, target_online=not target_offline
        )
    except CalendarError as error:
        raise Failed(str(error)) from None
    time = None if following is None else following.astimezone(zone).isoformat()
    if output == "json":
        inputs.echo_json({"next_sync": 0 if following is None else int(following.timestamp()), "time": time})
    else:
        click.echo(time or "never")
