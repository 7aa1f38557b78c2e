"""What decides a cell's result, as a digest: its settings, its data and its backbone, but not where they lie.

So a finished cell counts in another directory and on another machine, and a cell whose settings or data have changed
is run again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptuning.backbones import embedded
from ptuning.backbones.paths import require_directory
from ptuning.config import METHODS, RunConfig, with_method_defaults
from ptuning.config.methods import STARTS
from ptuning.data.file_names import find_splits
from ptuning.data.hub import HubSource, is_hub_name
from ptuning.data.sources import source_directory
from ptuning.errors import DataError
from ptuning.tasks.glm_patterns import GLM_PATTERNS
from ptuning.tasks.presets import get_task

VERSION = 2
"""Of what a cell does with its settings; a change that makes old results wrong raises it."""

ADDED: Mapping[str, Any] = MappingProxyType(
    {
        "head.length_penalty": 0.0,
        "attention_direction": None,
        "prompts.gate": "none",
        "training.value_learning_rate": None,
        "training.learning_rate_probe": False,
        "training.weight_averaging": "off",
        "training.averaging_decay": 0.99,
        "training.quantization": "none",
        "training.sharding": "none",
    }
)
"""Settings that came after this version, with the value that leaves a run as it was before them.

At that value they are no part of a digest, so that finished cells still count.
"""

_BESIDE = ("dataset_info.json",)  # read with the splits


def cell_key(config: RunConfig, split: str) -> str:
    """Returns the name of a cell's directory: what it is in words, and a digest of all that decides its result.

    Args:
        config: settings of the run.
        split: that is reported.

    Raises:
        BackboneError: the backbone is in a directory that is not there.
        DataError: the data are in a directory that is not there.
    """
    words = re.sub(r"[^\w.]+", "-", f"{config.method}-{config.task}-{config.training.seed}").strip("-")
    return f"{words}-{_digest([json.dumps(_deciding(config, split), sort_keys=True).encode()])[:16]}"


def data_digest(config: RunConfig) -> str:
    """Returns a digest of the files of a task's data, or the name and revision of a data set of the hub.

    Raises:
        DataError: the data are in a directory that is not there.
    """
    task = get_task(config.task)
    source = config.data.path or task.source
    if source is None:
        return "none"  # training says what is missing
    if isinstance(source, HubSource):
        return str(source)
    return _data_at(str(source_directory(source)), task.kind)


def portable_settings(config: RunConfig) -> dict[str, Any]:
    """Returns settings as JSON values without where things lie: of a path its last part alone, and no output."""
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"output"})
    values["data"]["path"] = _last_part(values["data"]["path"])
    values["backbone"] = _last_part(values["backbone"])
    for group in ("prompts", "head"):
        values[group]["init"] = _last_part(values[group]["init"])
    return values


def _deciding(config: RunConfig, split: str) -> dict[str, Any]:
    """What decides a result, with what is left to the method and the preset, so that a change there is another cell."""
    require_directory(config.backbone)
    config = with_method_defaults(config, hidden_size=_hidden_size(config.backbone))
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"output", "recipe"})
    method = METHODS[config.method]
    if config.training.learning_rate is None and method.full_rate_up_to is not None:  # of the hub, or probed around it
        values["training"]["learning_rate"] = [method.learning_rate, method.full_rate_up_to]
    if config.training.attention == "auto":
        values["training"]["attention"] = "sdpa"  # as the default was called, which it is wherever there was one
    task = get_task(config.task)
    if config.head.kind == "verbalizer" or method.needs_pattern:
        values["data"]["pattern"] = config.data.pattern or task.pattern
        values["head"]["words"] = config.head.words or dict(task.words or {})
        if config.data.pattern is None and task.name in GLM_PATTERNS and _is_glm(config.backbone):
            values["data"]["glm_pattern"] = asdict(GLM_PATTERNS[task.name])
    values["data"]["path"] = data_digest(config)
    if config.backbone != embedded.NAME and Path(config.backbone).is_dir():
        values["backbone"] = _files(str(Path(config.backbone).resolve()))
    for group in ("prompts", "head"):
        start = values[group]["init"]
        if start not in STARTS and Path(start).is_dir():
            values[group]["init"] = _files(str(Path(start).resolve()))
    _drop_added(values)
    return {"version": VERSION, "split": split, "settings": values}


def _hidden_size(backbone: str) -> int | None:
    """Of the embedded backbone, and of a directory that says it; None for one of the hub, which is not looked into."""
    size = embedded.HIDDEN_SIZE if backbone == embedded.NAME else _config_in(backbone).get("hidden_size")
    return size if isinstance(size, int) and size > 0 else None


def _is_glm(backbone: str) -> bool:
    """Whether a directory holds a GLM (2021). One of the hub is not looked into: its name decides its patterns too."""
    values = _config_in(backbone)
    if not values:
        return False
    from ptuning.backbones.glm import is_glm_2021  # with transformers

    return is_glm_2021(values)


def _config_in(backbone: str) -> dict[str, Any]:
    """What `config.json` of a directory says; empty where there is none, or one that whoever loads it will refuse."""
    path = Path(backbone) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _drop_added(values: dict[str, Any]) -> None:
    for name, value in ADDED.items():
        *groups, last = name.split(".")
        own = values
        for group in groups:
            own = own[group]
        if own[last] == value:
            del own[last]


def _data_at(source: str, kind: str) -> str:
    directory = Path(source)
    if directory.is_dir():
        return _splits_in(str(directory.resolve()), kind)
    if not is_hub_name(source):
        raise DataError(
            f"{source} is no directory, expected one with a train file, or a Hugging Face data set as owner/name. "
            "Correct data.path of the task."
        )
    return source


@cache
def _splits_in(source: str, kind: str) -> str:
    directory = Path(source)
    splits = find_splits(directory, kind)
    if not splits:
        return _files(source)
    parts: list[bytes] = []
    for split, path in splits.items():
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        parts += [split.encode(), *(_file_digest(file) for file in files)]
    parts += [_file_digest(directory / name) for name in _BESIDE if (directory / name).is_file()]
    return _digest(parts)


@cache
def _files(source: str) -> str:
    """Of all files in a directory, by their names there; hidden ones apart."""
    directory = Path(source)
    parts: list[bytes] = []
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            parts += [name.encode(), _file_digest(file)]
    return _digest(parts)


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _last_part(path: str | None) -> str | None:
    """Of a local path what does not say where somebody keeps files; names on the hub stay."""
    if path is None or not (path.startswith((".", "~")) or Path(path).is_absolute() or Path(path).exists()):
        return path
    return Path(path).name
