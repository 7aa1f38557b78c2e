"""`ptuning compare`: methods x tasks x backbones x seeds, as tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptuning.compare.settings import load_compare_config
from ptuning.config import parse_settings
from ptuning.errors import ConfigError
from ptuning.multitask.settings import parse_data

if TYPE_CHECKING:
    from ptuning.reports.outcomes import Comparison

EXAMPLES = """Examples:

    ptuning compare examples/compare_small.yaml

    ptuning compare config.yaml --data sst2=data/sst2 --workers 2 --output runs/study

    ptuning compare config.yaml --set seeds=[11] --set run.training.epochs=2

    ptuning compare config.yaml --tables-only
"""


def command(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings.", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Directory or data set of one of the tasks.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of everything. Default: runs/compare.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Cells at once, each in a process of its own; default: one for each GPU.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as selection=paper.")
    ] = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Run nothing; tables and figures of what is finished.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Compare methods on tasks, backbones and seeds; finished cells are kept, and the same command goes on."""
    if config is None:
        raise ConfigError(
            "no config was given, expected a YAML file with `methods` and `tasks`. Name one, such as "
            "examples/compare_small.yaml."
        )
    flags: dict[str, Any] = {"output": None if output is None else str(output), "workers": workers}
    overrides = {key: value for key, value in flags.items() if value is not None} | parse_settings(setting or [])
    settings = load_compare_config(config, overrides, data=parse_data(data or []))
    if config.resolve() == (settings.directory / "config.yaml").resolve():
        raise ConfigError(
            f"{config} is where the settings of the comparison would be written. Move it, or use another --output."
        )

    from ptuning.compare.reporting import Silent, Terminal
    from ptuning.compare.run import compare_methods
    from ptuning.reports.comparison import can_draw

    try:
        comparison = compare_methods(settings, watcher=Silent() if quiet else Terminal(), tables_only=tables_only)
    except KeyboardInterrupt:
        typer.echo(
            "stopped. Finished cells are kept: the same command goes on, and --tables-only shows what is there.",
            err=True,
        )
        raise typer.Exit(1) from None
    _print(comparison)
    if not can_draw():
        typer.echo('no figures without matplotlib. Run: pip install "ptuning[reports]"', err=True)
    typer.echo(f"tables and figures: {settings.directory}")
    for outcome in comparison.failed:
        typer.echo(
            f"failed: {outcome.part} {outcome.method}, {outcome.task}, {outcome.backbone}, seed {outcome.seed}: "
            f"{outcome.error}",
            err=True,
        )
    if comparison.failed:
        raise typer.Exit(1)


def _print(comparison: Comparison) -> None:
    from ptuning.cli.tables import print_table
    from ptuning.reports.tables import cost_tables, score_tables

    for table in (*score_tables(comparison), *cost_tables(comparison)):
        rows = [
            [cell.replace("**", "") if "**" not in cell else f"{cell.replace('**', '')} *" for cell in row]
            for row in table.rows
        ]
        print_table(table.columns, rows, title=table.title)
        typer.echo(table.caption.replace("Bold:", "*:"))
        typer.echo("")
