"""`ptuning info`: what a saved prompt is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ptuning.checkpoint import SavedPrompt

EXAMPLES = """Examples:

    ptuning info runs/tickets

    ptuning info runs/tickets --json
"""


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or its prompt/.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the prompt's config as JSON.")] = False,
) -> None:
    """Say what a saved prompt is: task, metrics, sizes, backbone. The files are checked."""
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
