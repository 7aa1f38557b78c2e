"""The saved prompt: a directory of a few megabytes with everything a task needs besides the backbone.

    prompt/
      config.json            format version, method, task, head, backbone identity, what was measured
      prompts.safetensors    `prompts`, `head.*`, and nothing of the backbone; `pooler.*` where it was drawn at random
      model.safetensors      of fine-tuning alone: all weights of the backbone
      README.md              a model card

Methods without prompts at every layer have what they train instead of `prompts`: `input_prompts`, `bias_changes.*`,
`lora.*`.

Only safetensors and JSON are read. `config.json` holds the sha256 of the tensors and of its own content, so that what
was altered is noticed. Writing replaces the directory as a whole; a reader that meets a replacement reads again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from ptuning.backbones.identity import BackboneIdentity
from ptuning.backbones.quantization import Quantization
from ptuning.config import METHODS
from ptuning.errors import CheckpointError
from ptuning.heads.pooling import Pooling
from ptuning.model_card import model_card
from ptuning.prompts import Positions
from ptuning.storage import recover_directory, replace_directory, sha256_of
from ptuning.version import __version__

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
TENSORS_FILE = "prompts.safetensors"
CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"
FILES = (CONFIG_FILE, TENSORS_FILE, CARD_FILE, WEIGHTS_FILE)
"""All that a prompt directory holds."""

_POOLER = "pooler."  # of the names of a drawn pooler's tensors
_PAUSES = (0.01, 0.02, 0.05, 0.1)  # seconds before a directory that is not as it should be is read again
_MOST_TOKENS = 1_000_000  # a sequence at most; longer ones are damage

Read = TypeVar("Read")


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
    quantization: Quantization = "none"


class _HeldOut(_Saved):
    seed: int = Field(ge=0)
    development_fraction: float = Field(gt=0, lt=1)
    selection: Literal["validation", "development"] = "validation"


class _Task(_Saved):
    """What every task has; the options of its kind stand beside, and `tasks.kind_from_dict` checks them."""

    name: str
    kind: str
    columns: dict[str, str]
    max_length: int = Field(ge=1, le=_MOST_TOKENS)
    template: str | None = None
    label_names: list[str] | None = None
    held_out: _HeldOut | None = None


class _Head(_Saved):
    pooling: Pooling | None = None  # a verbalizer has none
    pooler: Literal["drawn"] | None = None
    kind: Literal["linear", "verbalizer"] = "linear"
    length_penalty: float = Field(0.0, ge=0)


class _Adaptation(_Saved):
    """What methods without prompts at every layer have to know besides their tensors."""

    tensors: list[str] = Field(default_factory=list)
    place: Literal["front", "around", "pattern"] | None = None
    rank: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0)
    modules: list[str] | None = Field(None, min_length=1)
    precision: Literal["fp32", "bf16"] | None = None


class _Config(_Saved):
    """What `config.json` holds; keys that are not read here may stand in it too."""

    method: str
    prompts: _Placement
    backbone: _Backbone
    files: dict[str, str]
    digest: str
    task: _Task | None = None
    head: _Head | None = None
    adaptation: _Adaptation | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    metrics_from: str | None = None
    precision: Literal["fp32", "bf16"] | None = None
    parameters: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True)
class SavedAdaptation:
    """What is kept of a method that has no prompts at every layer, besides the head.

    Attributes:
        options: besides tensors and method, as JSON values.
        tensors: by name.
        weights: all weights of the backbone where they were trained, by name; else empty.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedPrompt:
    """One task's prompts and head, as they are on disk.

    Attributes:
        prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim) fp32, axis 1 is key, then value;
            without virtual tokens where the method has none at every layer.
        layers: the prompted layers, ascending.
        positions: position mode that they were trained with.
        backbone: what they were trained on.
        method: how they were trained.
        task: what they are for (name, kind, label names, columns, lengths; `held_out` where validation rows were held
            out of train), None for bare prompts.
        head: `pooling` of the head, and `pooler: drawn` where it reads one that was drawn at random; `kind: verbalizer`
            instead where it asks the backbone for words; None for bare prompts.
        head_tensors: the head's weights by name, those of a drawn pooler too, as `pooler.*`.
        metrics: what the best epoch reached on the validation rows, fractions in [0, 1].
        metrics_from: what the metrics are from, where it is not the task as it is saved.
        precision: that the backbone was stored in while it was trained, `fp32` or `bf16`, where that is known.
        counts: parameters of `prompts` (or what the method trains instead), `head`, `backbone` and `transformer` (the
            backbone without embeddings).
        adaptation: what the method trains instead of prompts at every layer; empty where it has those.
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
    metrics_from: str | None = None
    precision: str | None = None
    adaptation: SavedAdaptation = field(default_factory=SavedAdaptation)

    def tensors(self) -> dict[str, Tensor]:
        """Everything in `prompts.safetensors`, by key."""
        head = {
            name if name.startswith(_POOLER) else f"head.{name}": tensor for name, tensor in self.head_tensors.items()
        }
        own = {"prompts": self.prompts} if METHODS[self.method].has_deep_prompts else self.adaptation.tensors
        return {**own, **head}


@dataclass(frozen=True)
class PromptDirectory:
    """A prompt directory, read and checked once.

    Attributes:
        path: where it is, absolute.
        config: the content of `config.json`.
        size_bytes: of `prompts.safetensors`.
        prompt: what it holds.
    """

    path: Path
    config: dict[str, Any]
    size_bytes: int
    prompt: SavedPrompt


def save_prompt(directory: str | Path, saved: SavedPrompt) -> Path:
    """Writes a prompt directory, replacing one that is there.

    Returns:
        The directory.

    Raises:
        CheckpointError: the directory holds other files, cannot be replaced, or cannot be written.
    """

    def write(temporary: Path) -> None:
        for name, tensors in ((TENSORS_FILE, saved.tensors()), (WEIGHTS_FILE, saved.adaptation.weights)):
            if tensors or name == TENSORS_FILE:
                # Copies, because safetensors refuses tensors that share memory.
                copies = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
                if "prompts" in copies:
                    copies["prompts"] = copies["prompts"].float()
                save_file(copies, temporary / name)
        files = [name for name in (TENSORS_FILE, WEIGHTS_FILE) if (temporary / name).exists()]
        config = _config(saved, {name: sha256_of(temporary / name) for name in files})
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        size = sum((temporary / name).stat().st_size for name in files)
        (temporary / CARD_FILE).write_text(model_card(config, size), encoding="utf-8")

    try:
        _check_target(Path(directory))
        return replace_directory(directory, write)
    except OSError as error:
        raise CheckpointError(
            f"the prompt cannot be written to {directory}: {error.strerror or error}. Check its rights and the space "
            "on the disk, or give another directory."
        ) from error


def _check_target(directory: Path) -> None:
    """Makes sure that replacing a directory loses nothing that is not a prompt's."""
    path = directory.resolve()
    if path in (Path.cwd(), *Path.cwd().parents):
        raise CheckpointError(
            f"the prompt cannot be written to {directory}, which is the current directory or holds it: a prompt "
            f"replaces its directory as a whole. Give it one of its own, such as {directory / 'prompt'}."
        )
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{directory} is a file, expected a directory for the prompt. Give another path.")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in FILES) if path.exists() else []
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise CheckpointError(
            f"{directory} holds {shown}, and a prompt would replace the whole directory, expected nothing there but "
            f"{', '.join(FILES)}. Move them away, or give another directory, such as {directory / 'prompt'}."
        )


def find_prompt(directory: str | Path) -> Path:
    """Returns the prompt directory meant by a run directory or a prompt directory, as an absolute path.

    Raises:
        CheckpointError: it is neither.
    """
    directory = Path(directory)
    path = directory.resolve()
    for candidate in (path, path / "prompt"):
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


def _again(read: Callable[[], Read]) -> Read:
    """Reads again, a few times, what is incomplete or does not match: a process may be replacing the directory."""
    for pause in _PAUSES:
        try:
            return read()
        except (CheckpointError, OSError):
            time.sleep(pause)
    return read()


def _read_config(path: Path) -> dict[str, Any]:
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
    if (config.get("task") is None) != (config.get("head") is None):
        has, lacks = ("head", "task") if config.get("task") is None else ("task", "head")
        raise CheckpointError(
            f"{path} has a {has} and no {lacks}, expected both, or neither for bare prompts. "
            "Restore it from where the prompt came from."
        )
    head = config.get("head")
    if head is not None and head.get("kind") != "verbalizer" and head.get("pooling") is None:
        raise CheckpointError(f"{path} lacks head.pooling. Restore it from where the prompt came from.")
    found = _digest_of(config)
    if found != config["digest"]:
        raise CheckpointError(
            f"{path} was altered: its content has sha256 {found[:12]}…, but it says {config['digest'][:12]}… of "
            "itself. A prompt is not edited by hand; restore it from where it came from, or train again."
        )
    return config


def _digest_of(config: Mapping[str, Any]) -> str:
    """The sha256 of a config's canonical JSON, without its own digest."""
    content = {key: value for key, value in config.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
    return read_directory(directory).prompt


def read_directory(directory: str | Path) -> PromptDirectory:
    """Reads a prompt as `read_prompt` does, and returns what stands around it too.

    Raises:
        CheckpointError: as `read_prompt`.
    """
    return _again(lambda: _read_directory(find_prompt(directory)))


def _read_directory(directory: Path) -> PromptDirectory:
    config = _read_config(directory / CONFIG_FILE)
    method = METHODS.get(config["method"])
    if method is None:
        raise CheckpointError(
            f"{directory} was trained with method {config['method']!r}, expected one of {', '.join(METHODS)}. It may "
            "come from a newer version: upgrade ptuning."
        )
    tensors, size_bytes = _read_tensors(directory / TENSORS_FILE, config)
    weights: dict[str, Tensor] = {}
    if method.trains_backbone:
        weights, more_bytes = _read_tensors(directory / WEIGHTS_FILE, config)
        size_bytes += more_bytes
    placed = config["prompts"]
    expected = (len(placed["layers"]), 2, placed["num_kv_heads"], placed["prompt_length"], placed["head_dim"])
    known = ("head.", _POOLER) if (config.get("head") or {}).get("pooler") == "drawn" else ("head.",)
    own = ["prompts"] if method.has_deep_prompts else list((config.get("adaptation") or {}).get("tensors", ()))
    foreign = sorted(name for name in tensors if name not in own and not name.startswith(known))
    missing = [name for name in own if name not in tensors]
    if foreign or missing:
        found = f"has {', '.join(foreign)}" if foreign else f"has no {missing[0]}"
        expected_names = " and ".join((*own[:3], *(["..."] if len(own) > 3 else []), *(f"{name}*" for name in known)))
        raise CheckpointError(
            f"{directory / TENSORS_FILE} {found}, expected {expected_names} alone. "
            "Restore it, or update ptuning if it comes from a newer one."
        )
    prompts = tensors.pop("prompts") if method.has_deep_prompts else torch.zeros(expected)
    adaptation = SavedAdaptation(
        options={key: value for key, value in (config.get("adaptation") or {}).items() if key != "tensors"},
        tensors={} if method.has_deep_prompts else {name: tensors.pop(name) for name in own},
        weights=weights,
    )
    if tuple(prompts.shape) != expected:
        raise CheckpointError(
            f"{directory / TENSORS_FILE} has prompts of shape {tuple(prompts.shape)}, but its {CONFIG_FILE} says "
            f"(num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim) = {expected}. "
            "The two files do not belong together; restore both."
        )
    saved = SavedPrompt(
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
        metrics_from=config.get("metrics_from"),
        precision=config.get("precision"),
        adaptation=adaptation,
    )
    return PromptDirectory(directory, config, size_bytes, saved)


def _read_tensors(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Returns the tensors by name, and the size of the file."""
    try:
        content = path.read_bytes()  # once: what is checked is what is loaded
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing, expected beside {CONFIG_FILE}. Restore it from where the prompt came from."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check its rights.") from error
    expected = config["files"].get(path.name)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} has sha256 {found[:12]}…, but its {CONFIG_FILE} says {str(expected)[:12]}…: it was cut off or "
            "altered. Restore it from where the prompt came from."
        )
    try:
        return load_tensors(content), len(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: {error}. Restore it from where the prompt came from."
        ) from error


def _config(saved: SavedPrompt, files: Mapping[str, str]) -> dict[str, Any]:
    """What `config.json` holds.

    Args:
        saved: what is written.
        files: name -> sha256 of the files beside it.
    """
    _, _, num_kv_heads, prompt_length, head_dim = saved.prompts.shape
    config = {
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
        "adaptation": {**saved.adaptation.options, "tensors": list(saved.adaptation.tensors)},
        "backbone": saved.backbone.to_dict(),
        "metrics": saved.metrics,
        "metrics_from": saved.metrics_from,
        "precision": saved.precision,
        "parameters": saved.counts,
        "files": dict(files),
    }
    if METHODS[saved.method].has_deep_prompts:
        del config["adaptation"]
    config = json.loads(json.dumps(config))  # as it will be read: lists for tuples, text for keys
    return {**config, "digest": _digest_of(config)}


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
    for name, tensor in sorted(tensors.items()):
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{what} has {name} of shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}. "
                "Restore it from where it came from."
            )
    module.load_state_dict(dict(tensors))
