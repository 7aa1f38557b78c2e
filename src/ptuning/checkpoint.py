"""The saved prompt: a directory of a few megabytes with everything a task needs besides the backbone.

    prompt/
      config.json            format version, method, task, head, backbone identity, what was measured
      prompts.safetensors    `prompts`, `head.*`, and nothing of the backbone
      README.md              a model card

Only safetensors and JSON are read. Writing replaces the directory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ptuning.backbones.identity import BackboneIdentity
from ptuning.errors import CheckpointError
from ptuning.model_card import model_card
from ptuning.prompts import Positions
from ptuning.storage import recover_directory, replace_directory, sha256_of
from ptuning.version import __version__

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
TENSORS_FILE = "prompts.safetensors"


class _Saved(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class _Placement(_Saved):
    prompt_length: int = Field(ge=0)
    layers: list[Annotated[int, Field(ge=0)]]
    positions: Positions
    num_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)


class _Backbone(_Saved):
    name: str
    revision: str | None = None
    architecture: dict[str, Any]
    fingerprint: str


class _Config(_Saved):
    """What `config.json` holds; keys that are not read here may stand in it too."""

    method: str
    prompts: _Placement
    backbone: _Backbone
    files: dict[str, str]
    task: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    parameters: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True)
class SavedPrompt:
    """One task's prompts and head, as they are on disk.

    Attributes:
        prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim) fp32, axis 1 is key, then value.
        layers: the prompted layers, ascending.
        positions: position mode that they were trained with.
        backbone: what they were trained on.
        method: how they were trained.
        task: what they are for (name, kind, label names, lengths), None for bare prompts.
        head: `pooling` of the head, None for bare prompts.
        head_tensors: the head's weights by name.
        metrics: what the best epoch reached on the validation rows, fractions in [0, 1].
        counts: parameters of `prompts`, `head`, `backbone` and `transformer` (the backbone without embeddings).
    """

    prompts: Tensor
    layers: tuple[int, ...]
    positions: Positions
    backbone: BackboneIdentity
    method: str = "p-tuning-v2"
    task: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    head_tensors: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything in `prompts.safetensors`, by key."""
        head = {f"head.{name}": tensor for name, tensor in self.head_tensors.items()}
        return {"prompts": self.prompts, **head}


def save_prompt(directory: str | Path, saved: SavedPrompt) -> Path:
    """Writes a prompt directory, replacing one that is there.

    Returns:
        The directory.
    """

    def write(temporary: Path) -> None:
        # Copies, because safetensors refuses tensors that share memory.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in saved.tensors().items()}
        tensors["prompts"] = tensors["prompts"].float()
        save_file(tensors, temporary / TENSORS_FILE)
        config = _config(saved, sha256_of(temporary / TENSORS_FILE))
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        size = (temporary / TENSORS_FILE).stat().st_size
        (temporary / "README.md").write_text(model_card(config, size), encoding="utf-8")

    return replace_directory(directory, write)


def find_prompt(directory: str | Path) -> Path:
    """Returns the prompt directory meant by a run directory or a prompt directory.

    Raises:
        CheckpointError: it is neither.
    """
    directory = Path(directory)
    for candidate in (directory, directory / "prompt"):
        if candidate.is_dir() or candidate.parent.is_dir():
            recover_directory(candidate)
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    if not directory.exists():
        raise CheckpointError(
            f"{directory} does not exist, expected a run directory or its prompt/. Check the path, or train first."
        )
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file, expected a directory. Give a run directory or its prompt/.")
    raise CheckpointError(
        f"{directory} has no {CONFIG_FILE} and no prompt/{CONFIG_FILE}, so it is neither a prompt nor a finished run. "
        "Give a run directory or its prompt/."
    )


def read_config(directory: str | Path) -> dict[str, Any]:
    """Reads and checks `config.json` of a run or prompt directory.

    Raises:
        CheckpointError: missing, not JSON, of a newer format, or incomplete.
    """
    path = find_prompt(directory) / CONFIG_FILE
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON: {error}. Restore it from where the prompt came from."
        ) from error
    if not isinstance(config, dict) or type(config.get("format_version")) is not int or config["format_version"] < 1:
        raise CheckpointError(
            f"{path} has no format_version, expected a whole number from 1 on, so it is not a ptuning prompt. "
            "Give a run directory or its prompt/."
        )
    version = config["format_version"]
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}, but ptuning {__version__} reads up to {FORMAT_VERSION}. "
            "Update ptuning: pip install --upgrade ptuning"
        )
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        raise CheckpointError(f"{path} {_what_is_wrong(error)}. Restore it from where the prompt came from.") from error
    layers = config["prompts"]["layers"]
    if layers != sorted(set(layers)):
        raise CheckpointError(
            f"{path} has prompts.layers {layers}, expected ascending numbers. "
            "Restore it from where the prompt came from."
        )
    return config


def _what_is_wrong(error: ValidationError) -> str:
    problem = error.errors()[0]
    absent = [".".join(map(str, other["loc"])) for other in error.errors() if other["type"] == "missing"]
    if absent:
        return f"lacks {', '.join(absent)}"
    value = repr(problem["input"])
    expected = problem["msg"].removeprefix("Input should be ")
    place = ".".join(map(str, problem["loc"]))
    return f"has {value if len(value) <= 60 else value[:60] + '...'} as {place}, expected {expected}"


def read_prompt(directory: str | Path) -> SavedPrompt:
    """Reads a prompt, from a run directory or a prompt directory.

    Args:
        directory: a run or its `prompt/`.

    Raises:
        CheckpointError: a file is missing, damaged, altered, of a newer format, or its tensors do not fit its config.
    """
    directory = find_prompt(directory)
    config = read_config(directory)
    tensors = _read_tensors(directory, config)
    placed = config["prompts"]
    expected = (len(placed["layers"]), 2, placed["num_kv_heads"], placed["prompt_length"], placed["head_dim"])
    foreign = sorted(name for name in tensors if name != "prompts" and not name.startswith("head."))
    if foreign or "prompts" not in tensors:
        found = f"has {', '.join(foreign)}" if foreign else "has no prompts"
        raise CheckpointError(
            f"{directory / TENSORS_FILE} {found}, expected prompts and head.* alone. "
            "Restore it, or update ptuning if it comes from a newer one."
        )
    prompts = tensors.pop("prompts")
    if tuple(prompts.shape) != expected:
        raise CheckpointError(
            f"{directory / TENSORS_FILE} has prompts of shape {tuple(prompts.shape)}, but its {CONFIG_FILE} says "
            f"(num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim) = {expected}. "
            "The two files do not belong together; restore both."
        )
    return SavedPrompt(
        prompts=prompts,
        layers=tuple(placed["layers"]),
        positions=placed["positions"],
        backbone=BackboneIdentity.from_dict(config["backbone"]),
        method=config["method"],
        task=config.get("task"),
        head=config.get("head"),
        head_tensors={name.removeprefix("head."): tensor for name, tensor in tensors.items()},
        metrics=config.get("metrics", {}),
        counts=config.get("parameters", {}),
    )


def _read_tensors(directory: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    path = directory / TENSORS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, expected beside {CONFIG_FILE}. Restore it from where the prompt came from."
        )
    expected = config["files"].get(TENSORS_FILE)
    found = sha256_of(path)
    if found != expected:
        raise CheckpointError(
            f"{path} has sha256 {found[:12]}…, but its {CONFIG_FILE} says {str(expected)[:12]}…: it was cut off or "
            "altered. Restore it from where the prompt came from."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: {error}. Restore it from where the prompt came from."
        ) from error


def _config(saved: SavedPrompt, digest: str) -> dict[str, Any]:
    _, _, num_kv_heads, prompt_length, head_dim = saved.prompts.shape
    return {
        "format_version": FORMAT_VERSION,
        "ptuning_version": __version__,
        "method": saved.method,
        "task": saved.task,
        "prompts": {
            "prompt_length": prompt_length,
            "layers": list(saved.layers),
            "positions": saved.positions,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
        },
        "head": saved.head,
        "backbone": saved.backbone.to_dict(),
        "metrics": saved.metrics,
        "parameters": saved.counts,
        "files": {TENSORS_FILE: digest},
    }


def load_tensors_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copies saved tensors into a module of the same names and shapes.

    Raises:
        CheckpointError: a tensor is missing, extra, or of another shape.
    """
    own = module.state_dict()
    if set(own) != set(tensors):
        raise CheckpointError(
            f"{what} has tensors {sorted(tensors)}, expected {sorted(own)}. Restore it from where it came from."
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{what} has {name} of shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}. "
                "Restore it from where it came from."
            )
    module.load_state_dict(dict(tensors))
