"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from cnm_core.errors import Error

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json prints one object a line.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Only what tells each apart.")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under their titles: by rich on a terminal, else aligned text as Docker has it."""
    rows = list(rows)
    if sys.stdout.isatty():
        _print_rich(titles, rows)
        return
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


def print_lines(documents: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    for document in documents:
        click.echo(json.dumps(document, ensure_ascii=False))


def warn(text: str) -> None:
    """One line on stderr about what did not stop the command."""
    click.echo(f"cnm: {' '.join(text.split())}", err=True)


def passed_over(error: Error) -> None:
    """Warn of something in the store of a cluster that is passed over."""
    warn(f"{error.msg}; {error.details}".rstrip("; "))


def _print_rich(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
