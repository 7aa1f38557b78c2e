"""Settings of a comparison: which methods, tasks, backbones and seeds are crossed. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ptuning.config import METHODS, RunConfig, load_config, with_method_defaults
from ptuning.config.foreign import foreign_settings
from ptuning.config.loading import check_names, load_settings
from ptuning.config.settings import Int, Settings, group_names
from ptuning.config.text import Dumper
from ptuning.errors import ConfigError

Reparameterization = Literal["none", "mlp"]

_OF_THE_COMPARISON = {
    "output": "`output` of the comparison says where everything goes",
    "training.seed": "`seeds` lists them",
    "data.selection": "`selection` says what is chosen by which rows",
}
_DIMENSIONS = {"methods": "method", "tasks": "task", "backbones": "backbone"}
_MORE_KEYS = {"methods": ("method", "seeds"), "tasks": ("task", "split"), "backbones": ("backbone", "revision")}


def _both_ways() -> dict[Reparameterization, dict[str, Any]]:
    return {"none": {}, "mlp": {}}


class DepthSweep(Settings):
    """Prompts at some of the layers alone: the paper's Figure 3."""

    layers: list[Int | Literal["all"]] = Field(
        default_factory=list,
        description="numbers of prompted layers; each is run with the top ones (last:K) and the bottom ones (first:K); "
        "`all` is where both end, and is run once",
    )
    methods: list[str] = Field(default_factory=lambda: ["p-tuning-v2"], description="labels of `methods`")
    tasks: list[str] | None = Field(None, description="names of `tasks`; default: all")
    seeds: list[Int] | None = Field(None, description="default: those of the method")
    settings: dict[str, Any] = Field(default_factory=dict, description="dotted settings of these cells alone")


class LengthSweep(Settings):
    """Prompts of several lengths, with and without an MLP that produces them in training."""

    lengths: list[Int] = Field(default_factory=list, description="numbers of virtual tokens, such as 1 to 128")
    reparameterizations: dict[Reparameterization, dict[str, Any]] = Field(
        default_factory=_both_ways,
        description="none, mlp or both, each with dotted settings of its own, such as {none: {}, mlp: {}}",
    )
    methods: list[str] = Field(default_factory=lambda: ["p-tuning-v2"], description="labels of `methods`")
    tasks: list[str] | None = Field(None, description="names of `tasks`; default: all")
    seeds: list[Int] | None = Field(None, description="default: those of the method")
    settings: dict[str, Any] = Field(default_factory=dict, description="dotted settings of these cells alone")


class CompareConfig(Settings):
    """Everything that a comparison needs; saved beside its results as config.yaml."""

    methods: dict[str, dict[str, Any]] = Field(
        description="names of methods; or label -> `method`, perhaps `seeds`, and settings such as training.epochs"
    )
    tasks: dict[str, dict[str, Any]] = Field(
        description="presets; or name -> `task`, perhaps `split` (the rows to report on; default validation), and "
        "settings such as data.path"
    )
    backbones: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"minilm": {"backbone": "minilm"}},
        description="names or directories; or name -> `backbone`, perhaps `revision`, and settings",
    )
    seeds: list[Int] = Field(default_factory=lambda: [11, 12, 13], description="every cell is run once with each")
    selection: Literal["held_out", "paper"] = Field(
        "held_out",
        description="held_out: settings and epochs are chosen on rows held out of train, and the score is on rows that "
        "nothing was chosen by; paper: the best epoch on the rows to report is the score, as in the paper",
    )
    run: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of all cells; those of backbones, tasks and methods win, in this order",
    )
    search: dict[str, dict[str, list[Any]]] = Field(
        default_factory=dict,
        description="label of a method -> setting -> values to try, all with all, with the first seed; the best by the "
        "rows to choose by is used for all seeds",
    )
    depth: DepthSweep = Field(default_factory=DepthSweep)
    length: LengthSweep = Field(default_factory=LengthSweep)
    workers: Int | None = Field(
        None,
        ge=1,
        description="cells at once, each in a process of its own; GPUs are taken in turns; default: one for each GPU, "
        "or one without",
    )
    keep: bool = Field(False, description="keep the checkpoints and fine-tuned backbones of finished cells")
    output: str | None = Field(None, description="directory of everything; default: runs/compare")

    @field_validator("methods", "tasks", "backbones", mode="before")
    @classmethod
    def _names_become_settings(cls, value: Any, info: Any) -> Any:
        key = _DIMENSIONS[info.field_name]
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError(f"{info.field_name} is {value}, expected names that differ. Remove the second.")
            value = {name: {} for name in value} if all(isinstance(name, str) for name in value) else value
        if not isinstance(value, Mapping):
            return value
        if not value:
            raise ValueError(f"{info.field_name} is empty, expected at least one. Name one.")
        labelled = {}
        for label, own in value.items():
            if own is not None and not isinstance(own, Mapping):
                return value  # pydantic says what is wrong
            labelled[label] = {key: label, **dotted(own or {})}
        return labelled

    @field_validator("run", mode="before")
    @classmethod
    def _groups_become_dotted(cls, value: Any) -> Any:
        return dotted(value) if isinstance(value, Mapping) else value

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        problems = []
        for label, own in methods.items():
            if own["method"] not in METHODS:
                nearest = difflib.get_close_matches(str(own["method"]), METHODS, n=1)
                hint = f"Did you mean {nearest[0]}?" if nearest else "Give a label of your own its `method`."
                problems.append(f"methods.{label} is {own['method']!r}, expected one of {', '.join(METHODS)}. {hint}")
            if "seeds" in own:
                problems += _wrong_seeds(f"methods.{label}.seeds", own["seeds"])
        _raise(problems)
        return methods

    @field_validator("tasks")
    @classmethod
    def _have_rows_to_report(cls, tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        _raise(
            f"tasks.{name}.split is {own['split']!r}, expected the name of a split such as validation or test. Correct "
            "it, or leave it out for validation."
            for name, own in tasks.items()
            if not isinstance(own.get("split", "validation"), str) or own.get("split") == "train"
        )
        return tasks

    @model_validator(mode="after")
    def _the_papers_way_has_one_split(self) -> CompareConfig:
        others = [name for name in self.tasks if self.selection == "paper" and self.split_of(name) != "validation"]
        _raise(
            f"tasks.{name}.split is {self.split_of(name)!r}, but selection is paper, which reports the rows that the "
            "best epoch is chosen by. Leave split out, or use `selection: held_out`."
            for name in others
        )
        return self

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: list[int]) -> list[int]:
        _raise(_wrong_seeds("seeds", seeds))
        return seeds

    @model_validator(mode="after")
    def _names_are_known(self) -> CompareConfig:
        problems = [_unknown("search", label, "methods", self.methods) for label in self.search]
        for place, sweep in (("depth", self.depth), ("length", self.length)):
            points: Sequence[int | str] = sweep.layers if isinstance(sweep, DepthSweep) else sweep.lengths
            if not points:
                continue
            problems += [_unknown(f"{place}.methods", label, "methods", self.methods) for label in sweep.methods]
            problems += [_unknown(f"{place}.tasks", name, "tasks", self.tasks) for name in sweep.tasks or ()]
            problems += [] if sweep.seeds is None else _wrong_seeds(f"{place}.seeds", sweep.seeds)
            if any(point != "all" and int(point) < 1 for point in points) or len(set(points)) != len(points):
                problems.append(
                    f"{place} has the numbers {points}, expected different ones from 1 on. Correct them, or leave them "
                    "out."
                )
            for label in sweep.methods:
                name = str(self.methods.get(label, {}).get("method"))
                if name in METHODS and not METHODS[name].has_deep_prompts and place == "depth":
                    problems.append(
                        f"depth.methods has {label}, which has no prompts at layers. Name one with deep prompts."
                    )
                if name in METHODS and not METHODS[name].reparameterizations and place == "length":
                    problems.append(f"length.methods has {label}, which has no virtual tokens. Name one that has some.")
        for label, grid in self.search.items():
            problems += [
                f"search.{label}.{key} has no values to try. Give a list, or leave it out."
                for key, values in grid.items()
                if not values
            ]
        _raise(filter(None, problems))
        return self

    @model_validator(mode="after")
    def _every_cell_has_settings(self) -> CompareConfig:
        problems: dict[str, str] = {}  # message -> where it was found first
        groups: list[tuple[str, Mapping[str, Any]]] = [("run", self.run)]
        for dimension in _DIMENSIONS:
            groups += [(f"{dimension}.{label}", own) for label, own in getattr(self, dimension).items()]
        for where, own in groups:
            dimension = where.partition(".")[0]
            wrong = {**_OF_THE_COMPARISON, **_said_elsewhere(dimension)}
            for key in own:
                if key in wrong:
                    problems[f"`{key}` cannot be set here: {wrong[key]}. Leave it out."] = where
        if not problems:
            for method in self.methods:
                for task in self.tasks:
                    for backbone in self.backbones:
                        try:
                            self.settings_of(method, task, backbone)
                        except ConfigError as error:
                            problems.setdefault(str(error), f"{method}, {task}, {backbone}")
        _raise(f"{where}: {problem}" for problem, where in problems.items())
        return self

    def common_settings(self, task: str, backbone: str) -> dict[str, Any]:
        """The settings that all methods have on a task and a backbone, as they are written here, dotted."""
        merged: dict[str, Any] = {}
        for own in (self.run, self.backbones[backbone], self.tasks[task]):
            merged |= own
        split = merged.pop("split", "validation")
        is_beside = self.selection == "held_out" and split == "validation"
        return merged | ({"data.selection": "development"} if is_beside else {})

    def settings_of(self, method: str, task: str, backbone: str, more: Mapping[str, Any] | None = None) -> RunConfig:
        """The settings of a cell, with the defaults of its method that do not follow from the backbone.

        Of the settings that are common to several methods a cell has those that its method has; one that is given for
        the method itself must be one of them.

        Args:
            method: label.
            task: name.
            backbone: name.
            more: dotted settings that win over all others.

        Raises:
            ConfigError: some are unknown or out of range (all are listed), or the method does not have one.
        """
        own = {key: value for key, value in self.methods[method].items() if key != "seeds"} | dict(more or {})
        common = self.common_settings(task, backbone)
        config = load_config(None, {**common, **own})
        foreign = foreign_settings(config, METHODS[config.method])
        used = {key: value for key, value in common.items() if key not in foreign}
        return with_method_defaults(load_config(None, {**used, **own}) if foreign else config)

    def split_of(self, task: str) -> str:
        """The rows that a task is reported on."""
        return str(self.tasks[task].get("split", "validation"))

    def seeds_of(self, method: str) -> list[int]:
        """The seeds that a method is run with."""
        return list(self.methods[method].get("seeds", self.seeds))

    @property
    def directory(self) -> Path:
        """Where everything goes."""
        return Path(self.output or "runs/compare")

    def to_yaml(self) -> str:
        """The settings as YAML that `load_compare_config` reads back to an equal config."""
        text: str = yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)
        return text


def load_compare_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, data: Mapping[str, str] | None = None
) -> CompareConfig:
    """Reads a config file and lays overrides over it.

    Args:
        path: a YAML file.
        overrides: dotted keys to values, such as {"workers": 2}. They win over the file.
        data: for some of the tasks, by name, the directory or data set to use.

    Raises:
        ConfigError: the file cannot be read, or some settings are unknown or out of range (all are listed), or `data`
            names a task that is not there.
    """
    config = load_settings(CompareConfig, path, overrides or {})
    if not data:
        return config
    check_names(data, config.tasks)
    tasks = {name: {**own, **({"data.path": data[name]} if name in data else {})} for name, own in config.tasks.items()}
    return CompareConfig.model_validate({**config.model_dump(), "tasks": tasks})


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings as dotted keys: {"training": {"epochs": 3}} becomes {"training.epochs": 3}."""
    groups = group_names(RunConfig)
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key in groups and isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[str(key)] = value
    return found


def _said_elsewhere(dimension: str) -> dict[str, str]:
    """Keys that belong to another dimension -> why."""
    return {
        key: f"`{other}` lists them"
        for other, keys in _MORE_KEYS.items()
        for key in keys
        if other != dimension and not (dimension == "run" and key == "revision")
    }


def _unknown(place: str, name: str, where: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return ""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"They are {', '.join(known)}."
    return f"{place} names {name!r}, which is not one of `{where}`. {hint}"


def _wrong_seeds(place: str, seeds: Any) -> list[str]:
    are_whole = isinstance(seeds, Sequence) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if are_whole and seeds and len(set(seeds)) == len(seeds):
        return []
    return [f"{place} is {seeds}, expected one or more different whole numbers from 0 on. Correct it, or leave it out."]


def _raise(problems: Any) -> None:
    found = list(problems)
    if found:
        raise ValueError("\n  ".join(found))
