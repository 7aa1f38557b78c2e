"""The README.md of a saved prompt: what it is, what it reached, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(config: Mapping[str, Any], size_bytes: int) -> str:
    """Writes a model card from a saved prompt's config.

    Args:
        config: the content of `config.json`.
        size_bytes: of `prompts.safetensors`.
    """
    task, prompts, backbone = config.get("task") or {}, config["prompts"], config["backbone"]
    name = task.get("name") or "prompts"
    counts = config.get("parameters", {})
    lines = [
        "---",
        "library_name: ptuning",
        f"base_model: {json.dumps(backbone['name'], ensure_ascii=False)}",
        "tags: [p-tuning-v2, deep-prompt-tuning]",
        "---",
        "",
        f"# {name} on {backbone['name']}",
        "",
        f"Deep prompts ({config['method']}) for a frozen `{backbone['name']}`"
        + (f", trained for {task['kind'].replace('_', ' ')}." if task.get("kind") else "."),
        "",
        "| what | value |",
        "| --- | --- |",
        f"| backbone | {backbone['name']} ({backbone['architecture'].get('model_type')}, "
        f"{backbone['architecture'].get('num_layers')} layers), "
        f"revision {backbone.get('revision') or 'not recorded'} |",
        f"| prompt length | {prompts['prompt_length']} virtual tokens at {len(prompts['layers'])} layers |",
        f"| positions | {prompts['positions']} |",
        f"| size | {size_bytes / 1e6:.2f} MB |",
    ]
    if counts.get("backbone") and counts.get("transformer"):
        share = counts["prompts"] / counts["backbone"]
        ratio = counts["prompts"] / counts["transformer"]
        lines.append(
            f"| trained parameters | {counts['prompts']:,} prompts + {counts['head']:,} head; prompts are {share:.2%} "
            f"of the backbone ({ratio:.2%} of its transformer parameters) |"
        )
    if task.get("label_names"):
        labels = task["label_names"]
        shown = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
        lines.append(f"| labels | {shown.replace('|', '&#124;')} |")
    for metric, value in config.get("metrics", {}).items():
        lines.append(f"| validation {metric} | {value:.4f} |")
    lines += ["", "## Use", "", "```python", "import ptuning", ""]
    if task:
        lines += [
            f'task = ptuning.load("DIRECTORY", backbone={json.dumps(backbone["name"], ensure_ascii=False)})',
            f"print(task.predict([{json.dumps(_row(task), ensure_ascii=False)}]))",
        ]
    else:
        lines += [
            'saved = ptuning.read_prompt("DIRECTORY")',
            "ptuning.attach(model, saved.prompts, layers=saved.layers, positions=saved.positions)",
        ]
    lines += ["```", "", "The backbone is not in these files; it is loaded by its name or directory.", ""]
    return "\n".join(lines)


def _row(task: Mapping[str, Any]) -> dict[str, Any]:
    """A row to predict for, by the columns of training."""
    values: dict[str, Any] = {"tokens": ["...", "..."], "choices": ["...", "..."], "predicate_index": 0}
    columns = {
        role: column
        for role, column in (task.get("columns") or {"text": "text"}).items()
        if role not in ("label", "tags", "answers", "id")
    }
    return {column: values.get(role, "...") for role, column in columns.items()}
