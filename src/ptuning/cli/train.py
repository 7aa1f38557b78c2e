"""`ptuning train`: prompts and a head for one task, or what another method trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptuning.allocation import imports_for_good
from ptuning.config import METHODS, RunConfig, load_config, parse_settings
from ptuning.errors import ConfigError
from ptuning.launch import process_index

EXAMPLES = """Examples:

    ptuning train --task helpdesk/tickets --output runs/tickets

    ptuning train --task classification --data my_dir --backbone roberta-base

    ptuning train config.yaml --set training.epochs=20 --set prompts.prompt_length=40

    ptuning train --task helpdesk/tickets --set method=lora --output runs/tickets-lora

    ptuning train --resume --output runs/tickets

    torchrun --nproc_per_node 2 -m ptuning train --task helpdesk/tickets --output runs/tickets
"""


def command(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(help="Preset or kind of task; see `ptuning tasks`.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Hugging Face name, local directory, or minilm.")] = None,
    data: Annotated[str | None, typer.Option(help="Directory with train/validation files, or a data set name.")] = None,
    recipe: Annotated[str | None, typer.Option(help="default, paper, a recipe's name, or a YAML file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run. Default: runs/TASK-DATA.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.epochs=5.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run that is there, and start again.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train prompts and a head for one task on a frozen backbone."""
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite were both given, expected one of them. Leave one out.")
    flags = {"task": task, "backbone": backbone, "data.path": data, "recipe": recipe, "output": output}
    overrides: dict[str, Any] = {key: str(value) for key, value in flags.items() if value is not None}
    if config is not None and not resume:
        _check_is_not_in_the_way(config, output)
    settings = _settings(config, overrides, parse_settings(setting or []), resume=resume)

    with imports_for_good():
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.training.processes import end_processes
        from ptuning.training.reporting import Silent, Terminal
        from ptuning.training.run import train

    quiet_libraries()
    result = train(settings, resume=resume, overwrite=overwrite, report=Silent() if quiet else Terminal())
    end_processes()
    if process_index() != 0:
        return

    from ptuning.cli.tables import shown_metrics, shown_share

    counts = result.counts
    size = sum(path.stat().st_size for path in (result.directory / "prompt").glob("*.safetensors"))
    what = "prompt parameters" if METHODS[settings.method].has_deep_prompts else f"parameters of {settings.method}"
    share = shown_share(counts["prompts"], counts["backbone"])
    ratio = shown_share(counts["prompts"], counts["transformer"])
    epoch = f" (epoch {result.best_epoch})" if result.best_epoch else ""
    rows = settings.data.selection  # that the metrics are on
    typer.echo(f"{result.directory}: {rows} {shown_metrics(result.metrics)}{epoch}")
    typer.echo(
        f"{counts['prompts']:,} {what} ({share} of the backbone, {ratio} of its transformer) and "
        f"{counts['head']:,} of the head, {size / 1e6:.2f} MB in {result.directory / 'prompt'}; "
        f"{counts['trained']:,} parameters trained in {result.seconds:.0f} s"
    )


def _check_is_not_in_the_way(config: Path, output: Path | None) -> None:
    """A run writes its own config.yaml; a user's file of that name in the output would be lost."""
    is_there = output is not None and config.resolve() == (output / "config.yaml").resolve()
    if is_there and not (config.parent / "prompt").exists():
        raise ConfigError(f"{config} is where the run would write its own settings. Move it, or use another --output.")


def _settings(config: Path | None, flags: dict[str, Any], sets: dict[str, Any], *, resume: bool) -> RunConfig:
    """Settings from file and flags; with `--resume --output DIR` alone, those that the run was started with."""
    started = Path(flags.get("output", "")) / "config.yaml"
    if resume and config is None and "task" not in flags and "task" not in sets:
        if "output" not in flags:
            raise ConfigError(
                "--resume was given without saying which run. Add --output DIR, the directory of the run."
            )
        if not started.is_file():
            raise ConfigError(
                f"{flags['output']} has no config.yaml, so there is no run to resume. Give the directory of a run with "
                "--output, or leave --resume out."
            )
        config = started
    return load_config(config, {**flags, **sets})
