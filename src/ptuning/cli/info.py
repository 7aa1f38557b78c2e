"""`ptuning info`: what a saved prompt is, or what a training will need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptuning.config import load_config, parse_settings
from ptuning.errors import ConfigError

if TYPE_CHECKING:
    from ptuning.checkpoint import SavedPrompt

EXAMPLES = """Examples:

    ptuning info runs/tickets

    ptuning info runs/tickets --json

    ptuning info --plan --task helpdesk/tickets --backbone minilm

    ptuning info --plan --task super_glue/rte --backbone roberta-large --memory 24 --set training.device=cuda
"""


def command(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A run, or its prompt/.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the prompt's config, or the plan, as JSON.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what a training would need: memory, largest batch, time.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Plan: preset or kind of task.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Plan: Hugging Face name, local directory, or minilm.")] = None,
    data: Annotated[str | None, typer.Option(help="Plan: directory with train/validation files.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Plan: default, paper, a recipe's name, or a YAML file.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Plan: any setting of the run.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Plan: memory of another device. Default: of the one here.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="TFLOPS", help="Plan: rate of matrix products there. Default: measured here."),
    ] = None,
) -> None:
    """Say what a saved prompt is; or with --plan what a training would need, before anything is downloaded."""
    flags = {"task": task, "backbone": backbone, "data.path": data, "recipe": recipe}
    given = {key: value for key, value in flags.items() if value is not None}
    if plan:
        _plan(directory, given, setting or [], memory, rate, as_json=as_json)
        return
    if given or setting or memory is not None or rate is not None:
        raise ConfigError(
            "--task, --backbone, --data, --recipe, --set, --memory and --rate say what to plan, and --plan is missing. "
            "Add --plan, or leave them out."
        )
    if directory is None:
        raise ConfigError(
            "DIR is missing, expected a run or its prompt/. Name it, or ask for a plan: ptuning info --plan --task "
            "helpdesk/tickets"
        )
    _describe(directory, as_json=as_json)


def _plan(
    directory: Path | None,
    flags: dict[str, Any],
    settings: list[str],
    memory: float | None,
    rate: float | None,
    *,
    as_json: bool,
) -> None:
    overrides = {**flags, **parse_settings(settings)}
    if directory is not None:
        raise ConfigError(
            f"{directory} was given with --plan, which is about a training that has not begun, expected one of them. "
            "Leave one out; what to plan is said by --task, --backbone, --data, --recipe and --set."
        )
    if not {"task", "recipe"} & overrides.keys():
        raise ConfigError("--plan was given without the task. Name it: ptuning info --plan --task super_glue/rte")
    for option, value in (("--memory", memory), ("--rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{option} is {value:g}, expected a number above 0. Correct it, or leave it out.")
    config = load_config(None, overrides)

    from ptuning.cli.plans import print_plan
    from ptuning.cli.quiet import quiet_libraries
    from ptuning.planning import make_plan

    quiet_libraries()
    found = make_plan(
        config,
        memory_bytes=None if memory is None else int(memory * 1e9),
        rate=None if rate is None else rate * 1e12,
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        print_plan(found)


def _describe(directory: Path, *, as_json: bool) -> None:
    from ptuning.checkpoint import TENSORS_FILE, read_directory
    from ptuning.config import METHODS

    found = read_directory(directory)
    saved, path = found.prompt, found.path
    if as_json:
        typer.echo(json.dumps(found.config, ensure_ascii=False))
        return

    from ptuning.cli.tables import print_table, shown_metrics, shown_share

    task, backbone, counts = saved.task or {}, saved.backbone, saved.counts
    rows = [
        ["task", f"{task['name']} ({task['kind']})" if task else "none: prompts only"],
        ["method", saved.method],
        ["validation", shown_metrics(saved.metrics) or "-"],
        *([["", saved.metrics_from]] if saved.metrics_from else []),
        ["labels", ", ".join(task.get("label_names", [])) or "-"],
        ["columns", ", ".join(f"{role}: {column}" for role, column in task.get("columns", {}).items()) or "-"],
        ["max length", str(task.get("max_length", "-"))],
        *_placement(saved),
        ["head", str((saved.head or {}).get("kind", "linear" if saved.head else "-"))],
        ["pooling", str((saved.head or {}).get("pooling", "-"))],
        [
            "backbone",
            f"{backbone.name} ({_kind_of(backbone.architecture)}), {backbone.revision or 'no revision'}",
        ],
        ["fingerprint", backbone.fingerprint[:16]],
        *([["quantization", backbone.quantization]] if backbone.quantization != "none" else []),
    ]
    if counts:
        share = shown_share(counts["prompts"], counts["backbone"])
        ratio = shown_share(counts["prompts"], counts["transformer"])
        what = "prompts" if METHODS[saved.method].has_deep_prompts else saved.method
        rows.append(
            ["parameters", f"{counts['prompts']:,} {what} ({share} of the backbone, {ratio} of its transformer)"]
        )
        rows.append(["", f"{counts['head']:,} head"])
    rows.append(["file", f"{path / TENSORS_FILE}, {found.size_bytes / 1e6:.2f} MB"])
    print_table(["", str(path)], rows)


def _kind_of(architecture: dict[str, Any]) -> str:
    """A model type, and of a decoder which way it looks."""
    direction = architecture.get("attention_direction")
    return str(architecture.get("model_type")) + (f", {direction}" if direction else "")


def _placement(saved: SavedPrompt) -> list[list[str]]:
    """Where virtual tokens are, for methods that have some."""
    virtual = saved.adaptation.tensors.get("input_prompts")
    if virtual is not None:
        where = {"front": "in front of the input", "around": "around the input", "pattern": "in a pattern"}
        place = where.get(str(saved.adaptation.options.get("place")), "in the input")
        mixture = f", {virtual.shape[0]} prompts mixed" if virtual.shape[0] > 1 else ""
        return [["prompt length", f"{virtual.shape[1]} virtual tokens {place}{mixture}"]]
    if not saved.prompts.shape[3]:
        return []
    return [
        ["prompt length", f"{saved.prompts.shape[3]} virtual tokens, {saved.positions} positions"],
        ["layers", ", ".join(map(str, saved.layers))],
    ]
