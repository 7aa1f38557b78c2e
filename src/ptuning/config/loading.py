"""From defaults, a recipe, a file and flags to one `RunConfig`, or to other settings of the same form."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ptuning.config.foreign import foreign_settings
from ptuning.config.methods import METHODS
from ptuning.config.problems import all_problems
from ptuning.config.recipes import find_recipe
from ptuning.config.settings import RunConfig, group_names
from ptuning.config.text import Loader, read_yaml, yaml_problem
from ptuning.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Reads a config file, if any, and lays overrides over it.

    Args:
        path: a YAML file.
        overrides: dotted keys to values, such as {"training.seed": 3}. They win over the file; later ones over earlier.

    Raises:
        ConfigError: the file cannot be read, or some settings are unknown or out of range (all are listed).
    """
    overrides = dict(overrides or {})
    settings = _read_settings(path, RunConfig) if path is not None else {}
    if "tasks" in settings:
        raise ConfigError(
            f"{path} has `tasks`, settings of multi-task training, expected those of one run with `task`. Use "
            f"`ptuning multitask {path}`, or name another file."
        )
    if "candidates" in settings:
        raise ConfigError(
            f"{path} has `candidates`, settings of a population, expected those of one run with `task`. Go on with a "
            "population by train_population(..., resume=True), or name another file."
        )
    recipe = overrides.get("recipe", settings.get("recipe", "default"))
    recipe_settings: dict[str, Any] = {}
    if recipe != "default":
        task, backbone = (overrides.get(key, settings.get(key)) for key in ("task", "backbone"))
        default_backbone = RunConfig.model_fields["backbone"].default
        recipe_settings = _read_settings(find_recipe(recipe, task, backbone or default_backbone), RunConfig)
    found = _validated(RunConfig, _laid_over(recipe_settings, settings), overrides, path)
    foreign = foreign_settings(found, METHODS[found.method])
    if not foreign or not recipe_settings:
        return found
    for name in foreign:  # a recipe is made for one method; another takes what it has of it
        group, _, last = name.partition(".")
        recipe_settings.get(group, {}).pop(last, None)
    return _validated(RunConfig, _laid_over(recipe_settings, settings), overrides, path)


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Returns a config with overrides laid over it.

    Args:
        config: complete.
        overrides: dotted keys to values.

    Raises:
        ConfigError: some settings are unknown or out of range (all are listed).
    """
    return _validated(RunConfig, config.model_dump(), overrides, None)


def load_settings(model: type[Model], path: str | Path | None, overrides: Mapping[str, Any]) -> Model:
    """Reads settings of any form as `load_config` reads those of a run; there are no recipes for them.

    Raises:
        ConfigError: as `load_config`.
    """
    return _validated(model, _read_settings(path, model) if path is not None else {}, overrides, path)


def _validated(
    model: type[Model], merged: dict[str, Any], overrides: Mapping[str, Any], path: str | Path | None
) -> Model:
    """Lays overrides over settings and checks them all."""
    for key, value in overrides.items():
        nested: dict[str, Any] = merged
        *parents, last = key.split(".")
        for parent in parents:
            child = nested.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"`{key}` cannot be set: `{parent}` is {child!r}, expected one of the groups "
                    f"{', '.join(group_names(model))}. Name a setting of those, such as training.epochs."
                )
            nested = child
        _lay_over(nested, {last: str(value) if isinstance(value, PurePath) else value})
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        where = f" in {path}" if path is not None else ""
        raise ConfigError(all_problems(error, merged, where, model)) from error


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Turns `--set a.b=c` arguments into overrides; values are read as YAML.

    Raises:
        ConfigError: an argument has no `=`, or its value is not YAML.
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set got {pair!r}, expected KEY=VALUE. For example: --set training.epochs=5")
        try:
            overrides[key.strip()] = yaml.load(value, Loader=Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"--set got {pair!r}, whose value is not YAML ({yaml_problem(error)}), expected a value such as 5, "
                "text, or [a, b]. Put text with special characters in quotes."
            ) from error
    return overrides


def check_names(data: Mapping[str, str], tasks: Collection[str]) -> None:
    """Makes sure that data that are given by the name of a task are for one that is there.

    Raises:
        ConfigError: a name is none of a task.
    """
    unknown = [name for name in data if name not in tasks]
    if unknown:
        raise ConfigError(
            f"data are given for {', '.join(unknown)}, but the tasks are {', '.join(tasks)}. Name one of those."
        )


def _read_settings(path: str | Path, model: type[BaseModel]) -> dict[str, Any]:
    """A file's settings, without groups whose lines are all commented out."""
    groups = group_names(model)
    return {key: value for key, value in read_yaml(path).items() if value is not None or key not in groups}


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(below))
    _lay_over(merged, above)
    return merged


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            child = below.get(key)
            below[key] = dict(child) if isinstance(child, dict) else {}
            _lay_over(below[key], value)
        else:
            below[key] = value
