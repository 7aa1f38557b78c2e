"""The README.md of a saved prompt: what it is, what it reached, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # what the embedded backbone `minilm` is on the hub
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Models that were on the hub before it had owners.
_OWNERLESS = re.compile(
    r"(albert|bert|camembert|distilbert|distilroberta|roberta|t5|xlm-roberta)-(base|large|small|xlarge|xxlarge|3b|11b)"
    r"(-[\w.-]+)?"
)


def base_model(backbone: Mapping[str, Any]) -> str | None:
    """Returns a backbone's name on the hub; None for a local directory.

    Args:
        backbone: of a saved prompt's config. A name that a directory could have too counts only with a revision.
    """
    name = str(backbone["name"])
    if name == "minilm":
        return _MINILM
    is_known = _OWNERLESS.fullmatch(name) or (_HUB_NAME.fullmatch(name) and backbone.get("revision"))
    return name if is_known else None


def model_card(config: Mapping[str, Any], size_bytes: int) -> str:
    """Writes a model card from a saved prompt's config.

    Args:
        config: the content of `config.json`.
        size_bytes: of `prompts.safetensors`.
    """
    task, backbone = config.get("task") or {}, config["backbone"]
    name = task.get("name") or "prompts"
    counts = config.get("parameters", {})
    on_hub = base_model(backbone)
    # Of a local path only the last part: the others say where somebody keeps their files.
    shown_backbone = backbone["name"] if on_hub else re.split(r"[/\\]", backbone["name"].rstrip("/\\"))[-1]
    rounded = backbone.get("quantization", "none") != "none"
    lines = [
        "---",
        "library_name: ptuning",
        *([f"base_model: {json.dumps(on_hub, ensure_ascii=False)}"] if on_hub else []),
        f"tags: [{config['method'] + (', deep-prompt-tuning' if config['method'] == 'p-tuning-v2' else '')}]",
        "---",
        "",
        f"# {name} on {shown_backbone}",
        "",
        _what_it_is(config, shown_backbone)
        + (f", trained for {task['kind'].replace('_', ' ')}." if task.get("kind") else "."),
        "",
        "| what | value |",
        "| --- | --- |",
        f"| backbone | {shown_backbone} ({backbone['architecture'].get('model_type')}, "
        f"{backbone['architecture'].get('num_layers')} layers{_direction(backbone)}), "
        f"revision {backbone.get('revision') or 'not recorded'} |",
        *([f"| quantization | weights of its layers in {backbone['quantization']} |"] if rounded else []),
        *_placement(config),
        f"| size | {size_bytes / 1e6:.2f} MB |",
    ]
    if (config.get("head") or {}).get("pooler") == "drawn":
        lines.append("| pooler | drawn at random and never trained, since the checkpoint has none; in these files |")
    if counts.get("backbone") and counts.get("transformer"):
        share = counts["prompts"] / counts["backbone"]
        ratio = counts["prompts"] / counts["transformer"]
        what = "prompts" if "adaptation" not in config else config["method"]
        verb = "are" if what == "prompts" else "is"
        lines.append(
            f"| trained parameters | {counts['prompts']:,} {what} + {counts['head']:,} head; {what} {verb} {share:.2%} "
            f"of the backbone ({ratio:.2%} of its transformer parameters) |"
        )
    if task.get("label_names"):
        labels = task["label_names"]
        shown = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
        lines.append(f"| labels | {shown.replace('|', '&#124;')} |")
    for metric, value in config.get("metrics", {}).items():
        lines.append(f"| validation {metric} | {value:.4f} |")
    if config.get("metrics_from"):
        lines += ["", f"The validation metrics are {config['metrics_from']}."]
    lines += ["", "## Use", "", "```python", "import ptuning", ""]
    if task:
        lines += [
            f'task = ptuning.load("DIRECTORY", backbone={json.dumps(shown_backbone, ensure_ascii=False)})',
            f"print(task.predict([{json.dumps(_row(task), ensure_ascii=False)}]))",
        ]
    else:
        lines += [
            'saved = ptuning.read_prompt("DIRECTORY")',
            "ptuning.attach(model, saved.prompts, layers=saved.layers, positions=saved.positions)",
        ]
    where = "The backbone is not in these files; it is loaded by its name or directory."
    if "model.safetensors" in config.get("files", {}):
        where = "All weights are in `model.safetensors`; the backbone's settings and tokenizer are loaded by its name."
    lines += ["```", "", where, ""]
    return "\n".join(lines)


def _direction(backbone: Mapping[str, Any]) -> str:
    """Which way a decoder looks, where it is one."""
    direction = backbone["architecture"].get("attention_direction")
    return f", {direction} attention" if direction else ""


def _what_it_is(config: Mapping[str, Any], backbone: str) -> str:
    method = config["method"]
    if "adaptation" not in config:
        return f"Deep prompts ({method}) for a frozen `{backbone}`"
    if "model.safetensors" in config.get("files", {}):
        return f"Weights ({method}) of a `{backbone}`"
    return f"What {method} trains for a frozen `{backbone}`"


def _placement(config: Mapping[str, Any]) -> list[str]:
    """Rows about virtual tokens at every layer, for methods that have those."""
    if "adaptation" in config:
        return [f"| method | {config['method']} |"]
    prompts = config["prompts"]
    return [
        f"| prompt length | {prompts['prompt_length']} virtual tokens at {len(prompts['layers'])} layers |",
        f"| positions | {prompts['positions']} |",
    ]


def _row(task: Mapping[str, Any]) -> dict[str, Any]:
    """A row to predict for, by the columns of training."""
    values: dict[str, Any] = {"tokens": ["...", "..."], "choices": ["...", "..."]}
    columns = {
        role: column
        for role, column in (task.get("columns") or {"text": "text"}).items()
        if role not in ("label", "tags", "answers", "id")
    }
    return {column: values.get(role, "...") for role, column in columns.items()}
