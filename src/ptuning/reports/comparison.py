"""A comparison as files: tables and figures, from its cells alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ptuning.reports.outcomes import Comparison, read_results
from ptuning.reports.tables import (
    Table,
    cost_tables,
    failures_table,
    score_tables,
    search_table,
    sweep_tables,
    to_csv,
)
from ptuning.storage import replace_file

TABLE_NAME = "table.md"
CSV_NAME = "table.csv"


def report_comparison(results: str | Path, directory: str | Path) -> list[Path]:
    """Writes the tables and figures of a comparison from its `results.json`, which may be of another machine.

    Args:
        results: `results.json`, or the directory of a comparison.
        directory: where the files go.

    Returns:
        The files.

    Raises:
        CheckpointError: it is not there, or is not what `ptuning compare` writes.
    """
    return write_report(read_results(results), Path(directory))


def write_report(comparison: Comparison, directory: Path) -> list[Path]:
    """Writes table.md, table.csv, and, where matplotlib is installed, the figures that the cells allow.

    Args:
        comparison: the cells.
        directory: where the files go.

    Returns:
        The files.
    """
    text = "\n".join(table.to_markdown() for table in tables(comparison))
    replace_file(directory / TABLE_NAME, text)
    replace_file(directory / CSV_NAME, to_csv(comparison))
    return [directory / TABLE_NAME, directory / CSV_NAME, *write_figures(comparison, directory)]


def write_figures(comparison: Comparison, directory: Path) -> list[Path]:
    """Writes the figures, as SVG and PNG; none without matplotlib."""
    if not can_draw():
        return []
    from ptuning.reports.figures import figures
    from ptuning.reports.style import house_style, save_figure

    with house_style():
        drawn = figures(comparison)
    return [path for name, figure in drawn.items() for path in save_figure(figure, directory / name)]


def tables(comparison: Comparison) -> list[Table]:
    """All tables, those with scores first."""
    more = [search_table(comparison), failures_table(comparison)]
    return [
        *score_tables(comparison),
        *cost_tables(comparison),
        *sweep_tables(comparison),
        *(table for table in more if table is not None),
    ]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None
