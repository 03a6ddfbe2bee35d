"""What a command prints: tables and words for people, JSON for programs.

Text that comes from the daemon (names, output, messages) is shown as it is, never as markup, and without control
characters: a device's name cannot move the cursor of the person who lists it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Output", "ago", "plain", "size", "warn"]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

STYLES = {
    "passed": "green",
    "ready": "green",
    "healthy": "green",
    "loaded": "green",
    "failed": "red",
    "unhealthy": "red",
    "broken": "red",
    "quarantined": "red",
    "critical": "bold red",
    "high": "red",
    "running": "cyan",
    "provisioning": "cyan",
    "queued": "yellow",
    "paused": "yellow",
    "degraded": "yellow",
    "medium": "yellow",
    "cancelled": "yellow",
}


def plain(text: object) -> str:
    """Return ``text`` as one line without control characters; None becomes a dash."""
    return "-" if text is None else CONTROL.sub("�", str(text).replace("\n", " ").replace("\t", " "))


def ago(when: datetime | None, *, now: datetime | None = None) -> str:
    """Say how long ago something was, in the largest fitting unit."""
    if when is None:
        return "never"
    seconds = max(((now or datetime.now(UTC)) - when).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def size(count: float) -> str:
    """Say a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Output:
    """Where a command's results go. ``json`` chooses the form for programs; then words for people are left out."""

    def __init__(self, *, json: bool = False, console: Console | None = None) -> None:
        self.json = json
        self.console = console or Console(highlight=False, markup=False, soft_wrap=True)

    def document(self, value: object) -> None:
        """Print one JSON document: indented on a terminal, one line elsewhere."""
        encoded = msgspec.json.encode(value)
        if self.console.is_terminal:
            encoded = msgspec.json.format(encoded, indent=2)
        self._write(encoded.decode())

    def line(self, value: object) -> None:
        """Print one line of a JSON stream."""
        self._write(msgspec.json.encode(value).decode())

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence for people."""
        if not self.json:
            self.console.print(Text(plain(text), style=style))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Print rows: a table on a terminal, tab-separated lines below a header elsewhere."""
        cells = [[plain(cell) for cell in row] for row in rows]
        if not self.console.is_terminal:
            for line in [[column.upper() for column in columns], *cells]:
                self._write("\t".join(line))
        elif not cells:
            self.say(empty)
        else:
            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in columns:
                table.add_column(column, overflow="fold")
            for line in cells:
                table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
            self.console.print(table, soft_wrap=False)

    def _write(self, text: str) -> None:
        self.console.file.write(text + "\n")
        self.console.file.flush()


def warn(text: str) -> None:
    """Print a line for people on standard error."""
    print(plain(text), file=sys.stderr)
