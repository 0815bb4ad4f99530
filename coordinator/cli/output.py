"""What people read: tables on a terminal; aligned columns without colours, boxes or wrapping where output is piped."""

from collections.abc import Sequence
from datetime import datetime

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {
    "healthy": "green",
    "breached": "bold red",
    "unprotected": "bold yellow",
    "syncing first": "cyan",
    "observe": "dim",
    "created": "green",
    "changed": "green",
    "deleted": "green",
    "refused": "bold red",
}


class Failed(click.ClickException):
    """The operation failed or was refused; the message is for the operator."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        """On stderr, always."""
        click.echo(f"holdfast: {clean(self.message)}", err=True)


def clean(text: str) -> str:
    """The text on one line: whatever a record says, it cannot move the cursor or begin a line of its own."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def console() -> Console:
    """Where results go."""
    return Console(markup=False, highlight=False, emoji=False)


def complain(text: str) -> None:
    """A line on stderr, besides the results."""
    click.echo(f"holdfast: {clean(text)}", err=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], terminal: bool) -> RenderableType:
    """Rows under headers; the terminal's is a rich table, the other plain text."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if not terminal:
        return Text(plain(headers, cleaned), no_wrap=True, overflow="ignore", end="")
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in cleaned:
        made.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return made


def plain(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two blanks between them, each line ended; an empty cell is `-`, so that columns can be cut."""
    cells = [list(headers), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headers))]
    return "".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells
    )


def line(text: str, style: str = "") -> Text:
    """One line of text, which no control character breaks and no width wraps when piped."""
    return Text(clean(text), style=style or _STYLES.get(text, ""), overflow="fold")


def show(*parts: RenderableType) -> None:
    """Print on stdout."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    for part in parts:
        text = part.plain if isinstance(part, Text) else str(part)
        click.echo(text, nl=not text.endswith("\n"))


def together(parts: Sequence[RenderableType]) -> RenderableType:
    """Several parts as one."""
    return Group(*parts)


def duration(seconds: float | None) -> str:
    """`41s`, `3m 20s`, `2h 05m`, `3d 4h`; a dash where there is none."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def span(seconds: float) -> str:
    """A period that was set, in the unit in which it is whole: `60s`, `15m`, `2h`."""
    for width, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds > 2 * 60 and seconds % width == 0:
            return f"{seconds / width:g}{unit}"
    return f"{seconds:g}s"


def size(count: float | None) -> str:
    """Bytes as people read them, in powers of 1024."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB"


def moment(at: datetime | None) -> str:
    """An instant in RFC 3339, in UTC."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z") if at else "-"
