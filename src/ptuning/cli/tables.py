"""Tables and numbers as people read them, the same in every command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Prints a table to stdout, on a terminal as wide as it, elsewhere as wide as the table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def shown_metrics(metrics: Mapping[str, float]) -> str:
    """`accuracy 0.9100, f1 0.9087`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def shown_share(part: int, whole: int) -> str:
    """A part of a whole in percent."""
    return f"{part / whole:.2%}" if whole else "-"


def print_pairs(title: str, pairs: Sequence[tuple[str, str]], *, width: int) -> None:
    """Prints a title, and names and values below it, wrapped to a width."""
    console = Console(highlight=False, width=width)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(escape(name), escape(value))
    console.print(title, style="bold", markup=False)
    console.print(table)
    console.print()
