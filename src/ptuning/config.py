"""Settings of a run, from defaults, a recipe, a file, and flags. No torch here.

    load_config(path, overrides) -> RunConfig -> train(config)

Precedence: defaults < recipe < file < overrides (flags, then `--set`). All problems of a file are reported together.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ptuning.errors import ConfigError


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(_Settings):
    """Where the data are and how they are read."""

    path: str | None = Field(None, description="directory with train/validation/test files, or a Hugging Face data set")
    columns: dict[str, str] = Field(default_factory=dict, description="role -> column, where names are ambiguous")
    labels: list[str] | None = Field(None, description="label names in index order")
    max_length: int | None = Field(None, ge=3, description="tokens a sequence; default by task kind (128, QA 384)")
    max_train_rows: int | None = Field(None, ge=1, description="use only this many training rows")
    max_validation_rows: int | None = Field(None, ge=1, description="use only this many validation rows")
    development_fraction: float = Field(
        0.1, gt=0.0, lt=1.0, description="share of train held out where there is no validation file"
    )


class PromptsConfig(_Settings):
    """The prompts: how many, where, and how they start."""

    prompt_length: int = Field(20, ge=0, description="virtual tokens a layer")
    layers: str | int | list[int] = Field("all", description="all, first:K, last:K, 16-23, or a list; 0 is the lowest")
    positions: Literal["unshifted", "shifted"] = Field(
        "unshifted", description="shifted adds prompt_length to learned absolute positions, as the official code does"
    )
    reparameterization: Literal["none", "mlp"] = Field(
        "none", description="mlp: an MLP produces the prompts in training"
    )
    reparameterization_size: int = Field(512, ge=1, description="inner width of the MLP")
    init: str = Field("normal", description="normal, tokens (of the training data), text, or PATH of a saved prompt")
    init_std: float = Field(1.0, gt=0.0, description="standard deviation of init: normal; the official code has 0.02")
    init_text: str | None = Field(None, description="the text whose keys and values init: text starts from")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="probability of zeroing entries of keys and values")

    @model_validator(mode="after")
    def _init_has_what_it_needs(self) -> PromptsConfig:
        if self.init == "text" and not self.init_text:
            raise ValueError("prompts.init is `text`, but prompts.init_text is missing. Give the text to start from.")
        if self.reparameterization == "mlp" and self.init != "normal":
            raise ValueError(
                f"prompts.init is `{self.init}`, which needs `reparameterization: none`, since the MLP produces the "
                "prompts. Use `init: normal` with the MLP."
            )
        return self


class HeadConfig(_Settings):
    """The task's output layer."""

    kind: Literal["linear"] = Field("linear", description="a linear layer")
    pooling: Literal["cls", "mean", "last", "pooler"] | None = Field(
        None, description="default: cls where the tokenizer has one, mean for T5, last for causal models"
    )
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="on what the head reads")


class TrainingConfig(_Settings):
    """The loop."""

    epochs: int = Field(10, ge=1, description="passes over the training data")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    learning_rate: float = Field(1e-2, gt=0.0, description="of the prompts")
    head_learning_rate: float | None = Field(None, gt=0.0, description="of the head; default: learning_rate / 10")
    schedule: Literal["linear", "constant", "exponential_per_epoch"] = Field(
        "linear", description="linear: to 0 at the end; exponential_per_epoch: times 0.95 after each epoch"
    )
    warmup: float = Field(0.06, ge=0.0, lt=1.0, description="fraction of all optimizer steps")
    weight_decay: float = Field(0.0, ge=0.0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0.0, description="gradients are clipped to this norm")
    batch_size: int = Field(32, ge=1, description="examples a batch")
    batch_tokens: int | None = Field(None, ge=1, description="tokens a batch, padding included, instead of batch_size")
    accumulation: int = Field(1, ge=1, description="batches an optimizer step")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes it natively"
    )
    backbone_dropout: Literal["checkpoint", "off"] | Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        "checkpoint", description="dropout inside the frozen backbone: as its checkpoint says, off, or a probability"
    )
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward to save memory")
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many evaluations without a better metric"
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="write checkpoints/last every this many steps too")
    metric: str | None = Field(
        None, description="the validation metric that picks the best epoch; default by task kind"
    )
    seed: int = Field(11, ge=0, description="of everything random")
    device: str | None = Field(None, description="cpu, cuda, mps; default: the best there is")


class RunConfig(_Settings):
    """Everything a run needs; saved beside its results as config.yaml."""

    task: str = Field(description="a preset such as helpdesk/tickets, or a kind such as classification")
    recipe: str = Field("default", description="default, or the path of a file with settings")
    backbone: str = Field("minilm", description="a Hugging Face name, a local directory, or minilm")
    method: Literal["p-tuning-v2"] = Field("p-tuning-v2", description="what is trained")
    data: DataConfig = Field(default_factory=DataConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    head: HeadConfig = Field(default_factory=HeadConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    output: str | None = Field(None, description="directory of the run; default: runs/<task>-<data>")

    def to_yaml(self) -> str:
        """The settings as YAML that `load_config` reads back to an equal config."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Reads a config file, if any, and lays overrides over it.

    Args:
        path: a YAML file.
        overrides: dotted keys to values, such as {"training.seed": 3}. They win over the file.

    Raises:
        ConfigError: the file cannot be read, or some settings are unknown or out of range (all are listed).
    """
    overrides = dict(overrides or {})
    settings = _read_yaml(path) if path is not None else {}
    recipe = overrides.get("recipe", settings.get("recipe", "default"))
    merged: dict[str, Any] = {} if recipe == "default" else _read_yaml(_recipe_path(recipe))
    _lay_over(merged, settings)
    for key, value in overrides.items():
        nested: dict[str, Any] = merged
        *parents, last = key.split(".")
        for parent in parents:
            child = nested.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"`{key}` cannot be set: `{parent}` is {child!r}, not a group of settings.")
            nested = child
        nested[last] = value
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        where = f" in {path}" if path is not None else ""
        raise ConfigError(_all_problems(error, where)) from error


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
            overrides[key.strip()] = _as_number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set got {pair!r}, whose value is not YAML: {error}. Quote it.") from error
    return overrides


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-2 as text, which is how people write learning rates."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _recipe_path(recipe: Any) -> Path:
    path = Path(str(recipe))
    if not path.is_file():
        raise ConfigError(f"recipe is {recipe!r}, expected `default` or the path of a YAML file. Check the path.")
    return path


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {path} cannot be read: {error}. Give the path of a YAML text file.") from error
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the config {path} is not YAML: {error}. Correct the place it names.") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"the config {path} holds a {type(settings).__name__}, expected settings such as `task: …`.")
    return _numbers(settings)


def _numbers(settings: dict[str, Any]) -> dict[str, Any]:
    numeric = ("learning_rate", "head_learning_rate", "weight_decay", "init_std")
    return {
        key: _numbers(value) if isinstance(value, dict) else _as_number(value) if key in numeric else value
        for key, value in settings.items()
    }


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _all_problems(error: ValidationError, where: str) -> str:
    found: dict[str, list[str]] = {}
    for problem in error.errors():
        place = [str(part) for part in problem["loc"] if not _is_union_tag(str(part))]
        key = ".".join(place)
        messages = found.setdefault(key, [])
        if problem["type"] == "extra_forbidden":
            messages.append(f"`{key}` is not a setting.{_nearest_setting(place)}")
        elif problem["type"] == "missing":
            messages.append(f"`{key}` is missing. Set it{', or pass --' + key if key == 'task' else ''}.")
        elif problem["type"] == "value_error":
            messages.append(str(problem["ctx"]["error"]))
        elif messages:  # one more branch of a union
            messages[0] = f"{messages[0].rstrip('.')}, or {_expectation(problem['msg'])}."
        else:
            messages.append(f"`{key}` is {problem['input']!r}, expected {_expectation(problem['msg'])}.")
    lines = list(dict.fromkeys(message for messages in found.values() for message in messages))
    if len(lines) == 1:
        return f"1 setting{where} is wrong: {lines[0]}"
    return f"{len(lines)} settings{where} are wrong:\n" + "\n".join(f"  {line}" for line in lines)


def _expectation(message: str) -> str:
    """Pydantic's "Input should be a valid number, unable to parse …" as "a valid number"."""
    return message.removeprefix("Input should be ").split(", unable")[0].split(", got")[0]


def _is_union_tag(part: str) -> bool:
    return any(mark in part for mark in "[-") or part in ("str", "int", "float")


def setting_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name, groups included."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names.extend(setting_names(field.annotation, f"{prefix}{name}."))
    return names


def _nearest_setting(place: Sequence[str]) -> str:
    names = setting_names()
    by_last = {name.rpartition(".")[2]: name for name in names}
    full = difflib.get_close_matches(".".join(place), names, n=1, cutoff=0.6)
    last = difflib.get_close_matches(place[-1], list(by_last), n=1, cutoff=0.6)
    if place[-1] in by_last:
        return f" Did you mean `{by_last[place[-1]]}`?"
    if full:
        return f" Did you mean `{full[0]}`?"
    if last:
        return f" Did you mean `{by_last[last[0]]}`?"
    group = ".".join(place[:-1])
    known = [name for name in names if name.rpartition(".")[0] == group]
    return f" Known ones{' in ' + group if group else ''}: {', '.join(known)}."
