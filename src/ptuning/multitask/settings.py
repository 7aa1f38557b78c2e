"""Settings of multi-task training. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ptuning.config import DataConfig, HeadConfig, PromptsConfig, TrainingConfig
from ptuning.config.loading import check_names, load_settings
from ptuning.config.settings import Float, Int, Settings
from ptuning.config.text import Dumper
from ptuning.errors import ConfigError
from ptuning.multitask.shares import Sampling
from ptuning.tasks.presets import get_task

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SET_ELSEWHERE = {
    "epochs": "`steps` says how long each data set is trained",
    "max_steps": "`steps` says how long each data set is trained",
    "early_stopping": "each data set gets all of its `steps`, alone and together",
    "seed": "`seeds` lists them",
}


class TaskSettings(Settings):
    """One of the data sets."""

    task: str = Field(description="a preset such as wnut17, or a kind such as token_classification")
    data: DataConfig = Field(default_factory=DataConfig)


class MultitaskConfig(Settings):
    """Everything that multi-task training needs; saved beside its results as config.yaml."""

    tasks: dict[str, TaskSettings] = Field(description="name -> task and data; two or more, all of one kind")
    sampling: Sampling = Field(
        "proportional",
        description="whose batch is next in the shared stage: proportional (to the number of batches), uniform, or "
        "temperature (proportional to that number to the power of 1 / temperature)",
    )
    temperature: Float = Field(2.0, ge=1.0, description="of sampling: temperature; 1 is proportional")
    steps: Int = Field(1500, ge=2, description="optimizer steps for each data set, alone and together")
    shared_fraction: Float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="share of all steps in which the prompts are shared; each data set has the rest",
    )
    head_init: Literal["shared", "normal"] = Field(
        "normal", description="what heads start as after the shared stage: normal, new ones; shared, as it left them"
    )
    seeds: list[Int] = Field(default_factory=lambda: [11, 12, 13], description="everything is trained once with each")
    single: bool = Field(True, description="also train each data set alone, with as many steps")
    backbone: str = Field("minilm", description="a Hugging Face name, a local directory, or minilm")
    revision: str | None = Field(None, description="commit, branch or tag of the backbone on the hub")
    attention_direction: Literal["causal", "bidirectional"] | None = Field(
        None,
        description="which way the backbone's tokens see; default: as it was trained. bidirectional lets those of a "
        "decoder see what is behind them too",
    )
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    head: HeadConfig = Field(default_factory=HeadConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    output: str | None = Field(None, description="directory of all runs; default: runs/multitask")

    @field_validator("tasks")
    @classmethod
    def _are_of_one_kind(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        problems = []
        wrong = [name for name in tasks if not _NAME.fullmatch(name)]
        if wrong:
            problems.append(
                f"tasks has the name {', '.join(map(repr, wrong))}, expected letters, digits, - and _: each names a "
                "directory. Rename it."
            )
        lower = [name.lower() for name in tasks]
        repeated = [name for name in tasks if lower.count(name.lower()) > 1]
        if repeated:
            problems.append(
                f"tasks has the names {', '.join(repeated)}, expected names that differ in more than capitals: each "
                "names a directory. Rename one."
            )
        if len(tasks) < 2:
            problems.append(
                f"tasks has {len(tasks)} data set{'' if len(tasks) == 1 else 's'}, expected two or more that share "
                "prompts. Add one, or use `ptuning train`."
            )
        kinds: dict[str, list[str]] = {}
        for name, task in tasks.items():
            try:
                kinds.setdefault(get_task(task.task).kind, []).append(name)
            except ConfigError as error:
                problems.append(f"tasks.{name}.task: {error}")
        if len(kinds) > 1:
            found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
            problems.append(
                f"tasks mixes kinds ({found}), expected data sets of one kind, whose prompts have one thing to learn. "
                "Train each kind by itself."
            )
        if problems:
            raise ValueError("\n  ".join(problems))
        return tasks

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: list[int]) -> list[int]:
        if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
            raise ValueError(
                f"seeds is {seeds}, expected one or more different whole numbers from 0 on. Correct it, or leave it "
                "out for [11, 12, 13]."
            )
        return seeds

    @field_validator("prompts")
    @classmethod
    def _can_be_shared(cls, prompts: PromptsConfig) -> PromptsConfig:
        if prompts.prompt_length == 0:
            raise ValueError(
                "prompts.prompt_length is 0, expected at least 1: without prompts nothing is shared. Raise it."
            )
        return prompts

    @field_validator("head")
    @classmethod
    def _is_one_for_each(cls, head: HeadConfig) -> HeadConfig:
        if head.init != "normal":
            raise ValueError(
                f"head.init is {head.init!r}, expected normal: each data set has a head of its own. Leave it out; "
                "`head_init` says what heads start as after the shared stage."
            )
        return head

    @field_validator("training")
    @classmethod
    def _leaves_the_budget_alone(cls, training: TrainingConfig) -> TrainingConfig:
        problems = [
            f"training.{name} is {getattr(training, name)}, but {reason}. Leave it out."
            for name, reason in _SET_ELSEWHERE.items()
            if name in training.model_fields_set and getattr(training, name) is not None
        ]
        if problems:
            raise ValueError("\n  ".join(problems))
        if training.learning_rate_probe:
            raise ValueError(
                "training.learning_rate_probe is on, but it finds the rate of one run, and here several share one. "
                "Turn it off, and set training.learning_rate, if need be to what it finds for one of the data sets."
            )
        return training

    @model_validator(mode="after")
    def _both_stages_have_steps(self) -> MultitaskConfig:
        if not 0 < self.shared_steps < self.steps:
            raise ValueError(
                f"steps is {self.steps} and shared_fraction {self.shared_fraction:g}, which gives {self.shared_steps} "
                f"shared steps a data set and {self.steps - self.shared_steps} of its own, expected at least 1 each. "
                "Raise steps, or move shared_fraction towards 0.5."
            )
        return self

    @model_validator(mode="after")
    def _temperature_is_used(self) -> MultitaskConfig:
        if self.sampling != "temperature" and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError(
                f"temperature is {self.temperature:g}, but sampling is {self.sampling}, which has none. Set sampling "
                "to temperature, or leave temperature out."
            )
        return self

    @property
    def shared_steps(self) -> int:
        """Optimizer steps that each data set gives to the shared stage."""
        return round(self.shared_fraction * self.steps)

    @property
    def kind(self) -> str:
        """The kind of all tasks."""
        return get_task(next(iter(self.tasks.values())).task).kind

    def to_yaml(self) -> str:
        """The settings as YAML that `load_multitask_config` reads back to an equal config."""
        values = self.model_dump(mode="json", exclude={"training": set(_SET_ELSEWHERE)})
        text: str = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)
        return text


def load_multitask_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    data: Mapping[str, str] | None = None,
) -> MultitaskConfig:
    """Reads a config file and lays overrides over it.

    Args:
        path: a YAML file.
        overrides: dotted keys to values, such as {"steps": 300}. They win over the file; later ones over earlier.
        data: for some of the tasks, by name, the directory or data set to use.

    Raises:
        ConfigError: the file cannot be read, or some settings are unknown or out of range (all are listed), or `data`
            names a task that is not there.
    """
    config = load_settings(MultitaskConfig, path, overrides or {})
    if not data:
        return config
    check_names(data, config.tasks)
    paths = {f"tasks.{name}.data.path": place for name, place in data.items()}
    return load_settings(MultitaskConfig, path, {**(overrides or {}), **paths})


def parse_data(pairs: list[str]) -> dict[str, str]:
    """Turns `--data NAME=PATH` arguments into name -> path.

    Raises:
        ConfigError: an argument is not of this form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, place = pair.partition("=")
        if not _NAME.fullmatch(name) or not place:
            raise ConfigError(
                f"--data got {pair!r}, expected NAME=PATH, with a name of `tasks`. For example: "
                "--data wnut17=data/wnut17"
            )
        if name in found:
            raise ConfigError(f"--data got {name} twice, with {found[name]!r} and {place!r}. Leave one out.")
        found[name] = place
    return found
