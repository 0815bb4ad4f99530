"""`holdfast retention`: try a retention rule on a list of times."""

import sys
from datetime import datetime, tzinfo

import click
from holdfast.coordinator.cli import inputs
from holdfast.coordinator.cli.output import Failed, show, table
from holdfast.coordinator.model.keep import Keep, RetentionError
from holdfast.coordinator.planning import retention as engine


@click.group("retention")
def retention() -> None:
    """Which snapshots, points and backups a rule keeps."""


@retention.command("test")
@click.option("--keep", required=True, help="The rule: 'last=3,daily=7', or '36h/5d/2m' for short (counts).")
@inputs.zone_option
@inputs.output_option
def test(keep: str, zone: tzinfo, output: str) -> None:
    """Read `TIMESTAMP [NAME]` lines from standard input and say which of them the rule keeps, and why."""
    try:
        rule = Keep.parse(keep)
    except RetentionError as error:
        raise Failed(str(error)) from None
    given = [(number, *_item(number, line, zone)) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    decisions = engine.apply(rule, [(time, name) for _, _, time, name in given], zone)
    texts = [text for _, text, _, _ in given]
    if output == "json":
        inputs.echo_json(
            [
                {"time": text, "name": decision.name, "keep": decision.keep, "rule": decision.rule}
                for text, decision in zip(texts, decisions, strict=True)
            ]
        )
        return
    rows = [
        (text, decision.name, "keep" if decision.keep else "remove", decision.rule or "")
        for text, decision in zip(texts, decisions, strict=True)
    ]
    show(table(("TIME", "NAME", "", "RULE"), rows, sys.stdout.isatty()))


def _item(number: int, line: str, zone: tzinfo) -> tuple[str, datetime, str]:
    text, _, name = line.strip().partition(" ")
    try:
        return text, inputs.within(inputs.instant(text), zone), name.strip()
    except ValueError as error:
        raise Failed(f"line {number}: {error}") from None
