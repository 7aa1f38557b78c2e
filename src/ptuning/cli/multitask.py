"""`ptuning multitask`: prompts that several data sets share, beside each data set alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptuning.allocation import imports_for_good
from ptuning.config import parse_settings
from ptuning.errors import ConfigError
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config, parse_data

if TYPE_CHECKING:
    from ptuning.multitask.results import MultitaskResult, Stage

EXAMPLES = """Examples:

    ptuning multitask examples/multitask_ner.yaml --output runs/ner

    ptuning multitask examples/multitask_pairs.yaml --data rte=data/rte --data mrpc=data/mrpc --data cb=data/cb

    ptuning multitask config.yaml --set sampling=temperature --set steps=600 --no-single

    ptuning multitask --resume --output runs/ner
"""


def command(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings.", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Directory or data set of one of the tasks.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of all runs. Default: runs/multitask.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as steps=600.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs in the output directory.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete runs that are there, and start again.")
    ] = False,
    single: Annotated[
        bool | None,
        typer.Option(
            "--single/--no-single", help="Train each data set alone too, with as many steps. Default: single."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train prompts that several data sets share, go on with each from there, and compare with each alone."""
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite were both given, expected one of them. Leave one out.")
    overrides: dict[str, Any] = {} if output is None else {"output": str(output)}
    overrides |= parse_settings(setting or [])
    if single is not None:
        overrides["single"] = single
    settings = _settings(config, overrides, parse_data(data or []), resume=resume)

    with imports_for_good():
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.multitask.run import train_multitask
        from ptuning.training.reporting import Silent, Terminal

    quiet_libraries()
    result = train_multitask(
        settings, resume=resume, overwrite=overwrite, report_for=(lambda label: Silent()) if quiet else Terminal
    )
    _print(result)


def _settings(config: Path | None, overrides: dict[str, Any], data: dict[str, str], *, resume: bool) -> MultitaskConfig:
    """Settings from file and flags; with `--resume --output DIR` alone, those that the runs were started with."""
    output = overrides.get("output")
    if config is None and not resume:
        raise ConfigError(
            "no config was given, expected a YAML file with `tasks`. Name one, such as examples/multitask_ner.yaml."
        )
    if config is None:
        if output is None:
            raise ConfigError(
                "--resume was given without saying which runs. Add --output DIR, the directory of all runs."
            )
        config = Path(output) / "config.yaml"
        if not config.is_file():
            raise ConfigError(
                f"{output} has no config.yaml, so there is nothing to resume. Give the directory of all runs with "
                "--output, or leave --resume out."
            )
    elif output is not None and not resume and config.resolve() == (Path(output) / "config.yaml").resolve():
        raise ConfigError(
            f"{config} is where the settings of all runs would be written. Move it, or use another --output."
        )
    return load_multitask_config(config, overrides, data=data)


def _print(result: MultitaskResult) -> None:
    from ptuning.cli.tables import print_table

    stages: list[Stage] = ["single", "multi", "shared"] if result.config.single else ["multi", "shared"]
    rows = []
    for name, metric in result.metrics.items():
        scores = [_shown(result, name, stage) for stage in stages]
        costs = [result.summary(name, stage) for stage in stages if stage != "shared"]
        steps = " / ".join(f"{cost.steps:g}" for cost in costs if cost is not None)
        seconds = " / ".join(f"{cost.seconds:.0f}" for cost in costs if cost is not None)
        rows.append([name, metric, *scores, steps, seconds])
    columns = {"single": "single", "multi": "multi-task", "shared": "shared alone"}
    of = " / ".join(columns[stage].removesuffix("-task") for stage in stages if stage != "shared")
    print_table(["data set", "metric", *(columns[stage] for stage in stages), f"steps {of}", f"seconds {of}"], rows)
    seeds = ", ".join(map(str, result.config.seeds))
    over = "mean ± standard deviation over seeds" if len(result.config.seeds) > 1 else "seed"
    typer.echo(
        f"validation rows, {over} {seeds}; steps and seconds of multi-task hold an equal part of the shared stage"
    )
    typer.echo(f"every run: {result.directory / 'results.json'}")


def _shown(result: MultitaskResult, name: str, stage: Stage) -> str:
    found = result.summary(name, stage)
    if found is None:
        return "-"
    return f"{found.mean:.4f}" + ("" if found.deviation is None else f" ± {found.deviation:.4f}")
