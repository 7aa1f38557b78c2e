"""The recipes that are shipped: YAML files under `ptuning/recipes`, named by their path without its end.

    paper/super_glue/rte/roberta-large     the paper's settings for a task and a backbone

`recipe: paper` picks by the task and by the last part of the backbone's name or path.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ptuning.config.text import read_yaml
from ptuning.errors import ConfigError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
PAPER = "paper"

_ORIGIN = re.compile(r"^# Settings: (official|ours)\b", re.MULTILINE)


class ShippedRecipe(NamedTuple):
    """What a shipped recipe is for, and whose settings it has.

    Attributes:
        task: the preset.
        backbone: as `--backbone` takes it.
        origin: `official` where the settings are those of a released script, `ours` where none was released.
    """

    task: str
    backbone: str
    origin: Literal["official", "ours"]


@cache
def shipped_recipes() -> Mapping[str, ShippedRecipe]:
    """Returns what each shipped recipe is for, by the name that `--recipe` takes."""
    found = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        settings, origin = read_yaml(path), _ORIGIN.search(path.read_text(encoding="utf-8"))
        assert origin is not None, path
        whose: Any = origin[1]
        name = path.relative_to(RECIPES).with_suffix("").as_posix()
        found[name] = ShippedRecipe(settings["task"], settings["backbone"], whose)
    return MappingProxyType(found)


def find_recipe(recipe: Any, task: Any, backbone: Any) -> Path:
    """Returns the file of a recipe.

    Args:
        recipe: `paper`, the name of a shipped recipe, or the path of a file.
        task: of the run, by which `paper` is picked; None where it is not given.
        backbone: of the run, likewise.

    Raises:
        ConfigError: there is none.
    """
    name = str(recipe)
    if name == PAPER:
        return _file_of(_paper_recipe(task, backbone))
    if name in shipped_recipes():
        return _file_of(name)
    path = Path(name)
    if path.is_file():
        return path
    if name.startswith(f"{PAPER}/"):
        nearest = difflib.get_close_matches(name, shipped_recipes(), n=3)
        hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        raise ConfigError(
            f"recipe is {recipe!r}, and there is no such recipe, expected a name such as "
            f"paper/super_glue/rte/roberta-large.{hint} For all: see docs/recipes.md."
        )
    raise ConfigError(
        f"recipe is {recipe!r}, expected `default`, `paper`, the name of a shipped recipe, or the path of a YAML file. "
        "Check the path."
    )


def _file_of(name: str) -> Path:
    return RECIPES / f"{name}.yaml"


def last_part(backbone: str) -> str:
    """The last part of a backbone's name or path, in lower case: `roberta-large` of `FacebookAI/roberta-large`."""
    return re.split(r"[/\\]", backbone.rstrip("/\\"))[-1].lower()


def _paper_recipe(task: Any, backbone: Any) -> str:
    if task is None:
        raise ConfigError(
            "recipe is `paper`, which is picked by the task, and no task is given. Pass --task, such as "
            "--task super_glue/rte, or name a recipe, such as paper/super_glue/rte/roberta-large."
        )
    name = f"{PAPER}/{task}/{last_part(str(backbone))}"
    if name in shipped_recipes():
        return name
    by_backbone = {one.backbone: other for other, one in shipped_recipes().items() if one.task == task}
    if by_backbone:
        raise ConfigError(
            f"recipe is `paper`, which has no settings for {task} on {backbone}, but for "
            f"{', '.join(by_backbone)}. Use one of those backbones, or name the settings to use with any: "
            f"--recipe {' or '.join(by_backbone.values())}."
        )
    tasks = list(dict.fromkeys(one.task for one in shipped_recipes().values()))
    raise ConfigError(
        f"recipe is `paper`, which has no settings for the task {task}, but for {', '.join(tasks)}. Use `default`, or "
        "name the settings of one of those, such as --recipe paper/super_glue/rte/roberta-large."
    )
