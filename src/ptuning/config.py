"""Settings of a run, from defaults, a recipe, a file, and flags. No torch here.

    load_config(path, overrides) -> RunConfig -> train(config)

Precedence: defaults < recipe < file < overrides (flags, then `--set`). All problems of a file are reported together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ptuning.errors import ConfigError


def _no_truth_value(value: Any) -> Any:
    """Python takes True for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


Int = Annotated[int, BeforeValidator(_no_truth_value)]
Float = Annotated[float, BeforeValidator(_no_truth_value)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataConfig(_Settings):
    """Where the data are and how they are read."""

    path: str | None = Field(None, description="directory with train/validation/test files, or a Hugging Face data set")
    columns: dict[str, str] = Field(default_factory=dict, description="role -> column, where names are ambiguous")
    labels: list[str] | None = Field(None, description="label names in index order")
    max_length: Int | None = Field(None, ge=3, description="tokens a sequence; default by task kind (128, QA 384)")
    max_train_rows: Int | None = Field(None, ge=1, description="use only this many training rows")
    max_validation_rows: Int | None = Field(None, ge=1, description="use only this many validation rows")
    development_fraction: Float = Field(
        0.1, gt=0.0, lt=1.0, description="share of train held out where there is no validation file"
    )


class PromptsConfig(_Settings):
    """The prompts: how many, where, and how they start."""

    prompt_length: Int = Field(20, ge=0, description="virtual tokens a layer")
    layers: str | Int | list[Int] = Field("all", description="all, first:K, last:K, 16-23, or a list; 0 is the lowest")
    positions: Literal["unshifted", "shifted"] = Field(
        "unshifted", description="shifted adds prompt_length to learned absolute positions, as the official code does"
    )
    reparameterization: Literal["none", "mlp"] = Field(
        "none", description="mlp: an MLP produces the prompts in training"
    )
    reparameterization_size: Int = Field(512, ge=1, description="inner width of the MLP")
    init: str = Field("normal", description="normal, tokens (of the training data), text, or PATH of a saved prompt")
    init_std: Float = Field(
        1.0, gt=0.0, description="standard deviation of init: normal; the official code has 0.02, and so has mlp always"
    )
    init_text: str | None = Field(None, description="the text whose keys and values init: text starts from")
    dropout: Float = Field(0.0, ge=0.0, lt=1.0, description="probability of zeroing entries of keys and values")

    @model_validator(mode="after")
    def _init_has_what_it_needs(self) -> PromptsConfig:
        if self.init == "text" and not self.init_text:
            raise ValueError("prompts.init is `text`, but prompts.init_text is missing. Give the text to start from.")
        if self.init != "text" and self.init_text is not None:
            raise ValueError(
                f"prompts.init_text is {self.init_text!r}, but prompts.init is `{self.init}`, which does not read it. "
                "Set `init: text`, or leave init_text out."
            )
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
        None,
        description="default: the checkpoint's own where it names one, else cls, or mean where there is no such token",
    )
    dropout: Float = Field(0.1, ge=0.0, lt=1.0, description="on what the head reads")


class TrainingConfig(_Settings):
    """The loop."""

    epochs: Int | None = Field(
        None,
        ge=1,
        description="passes over the data; default: 5, or for about 1,500 steps up to 30, or as max_steps needs",
    )
    max_steps: Int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    learning_rate: Float = Field(1e-2, gt=0.0, description="of the prompts")
    head_learning_rate: Float | None = Field(None, gt=0.0, description="of the head; default: learning_rate")
    schedule: Literal["linear", "constant", "exponential_per_epoch"] = Field(
        "linear", description="linear: to 0 at the end; exponential_per_epoch: times 0.95 after each epoch"
    )
    warmup: Float = Field(0.06, ge=0.0, lt=1.0, description="fraction of all optimizer steps")
    weight_decay: Float = Field(0.0, ge=0.0, description="of AdamW")
    max_grad_norm: Float = Field(1.0, gt=0.0, description="gradients are clipped to this norm")
    batch_size: Int = Field(16, ge=1, description="examples a batch")
    batch_tokens: Int | None = Field(None, ge=1, description="tokens a batch, padding included, instead of batch_size")
    accumulation: Int = Field(1, ge=1, description="batches an optimizer step")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes it natively"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = Field(
        "sdpa", description="the backbone's base implementation of attention; docs/backbones.md says which fit"
    )
    backbone_dropout: Literal["checkpoint", "off"] | Annotated[Float, Field(ge=0.0, lt=1.0)] = Field(
        "checkpoint",
        description="checkpoint (what the backbone was trained with), off (none at all), or a probability (of "
        "all but the attention weights, which keep the checkpoint's)",
    )
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward to save memory")
    early_stopping: Int | None = Field(
        None, ge=1, description="stop after this many evaluations without a better metric"
    )
    checkpoint_steps: Int | None = Field(None, ge=1, description="write checkpoints/last every this many steps too")
    metric: str | None = Field(
        None, description="the validation metric that picks the best epoch; default by task kind"
    )
    seed: Int = Field(11, ge=0, lt=2**32, description="of everything random")
    device: str | None = Field(None, description="cpu, cuda, mps; default: the best there is")


class RunConfig(_Settings):
    """Everything a run needs; saved beside its results as config.yaml."""

    task: str = Field(description="a preset such as helpdesk/tickets, or a kind such as classification")
    recipe: str = Field("default", description="default, or the path of a file with settings")
    backbone: str = Field("minilm", description="a Hugging Face name, a local directory, or minilm")
    revision: str | None = Field(None, description="commit, branch or tag of the backbone on the hub")
    method: Literal["p-tuning-v2"] = Field("p-tuning-v2", description="what is trained")
    data: DataConfig = Field(default_factory=DataConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    head: HeadConfig = Field(default_factory=HeadConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    output: str | None = Field(None, description="directory of the run; default: runs/<task>-<data>")

    def to_yaml(self) -> str:
        """The settings as YAML that `load_config` reads back to an equal config."""
        text: str = yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        return text


_GROUPS = tuple(
    name
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
)


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Reads a config file, if any, and lays overrides over it.

    Args:
        path: a YAML file.
        overrides: dotted keys to values, such as {"training.seed": 3}. They win over the file; later ones over earlier.

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
                raise ConfigError(
                    f"`{key}` cannot be set: `{parent}` is {child!r}, expected one of the groups "
                    f"{', '.join(_GROUPS)}. Name a setting of those, such as training.epochs."
                )
            nested = child
        _lay_over(nested, {last: str(value) if isinstance(value, PurePath) else value})
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        where = f" in {path}" if path is not None else ""
        raise ConfigError(_all_problems(error, merged, where)) from error


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
            overrides[key.strip()] = yaml.load(value, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"--set got {pair!r}, whose value is not YAML ({_yaml_problem(error)}), expected a value such as 5, "
                "text, or [a, b]. Put text with special characters in quotes."
            ) from error
    return overrides


_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: 1e-2 is a number, and yes, off, 1:30 and 2024-01-01 are text. No key stands twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML reads as something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _recipe_path(recipe: Any) -> Path:
    path = Path(str(recipe))
    if not path.is_file():
        raise ConfigError(f"recipe is {recipe!r}, expected `default` or the path of a YAML file. Check the path.")
    return path


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the config {path} cannot be read: {error.strerror or error}. Give the path of a YAML text file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the config {path} is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}), expected YAML "
            "text. Save it as UTF-8."
        ) from error
    try:
        settings = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the config {path} is not YAML: {_yaml_problem(error)}. Expected lines such as `task: classification`; "
            "correct that place."
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"the config {path} holds a {type(settings).__name__}, expected settings. Write lines such as "
            "`task: classification`."
        )
    # A group whose lines are all commented out.
    return {key: value for key, value in settings.items() if value is not None or key not in _GROUPS}


def _yaml_problem(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1} column {mark.column + 1}" if mark is not None else str(problem)


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            child = below.get(key)
            below[key] = dict(child) if isinstance(child, dict) else {}
            _lay_over(below[key], value)
        else:
            below[key] = value


def _all_problems(error: ValidationError, settings: Mapping[str, Any], where: str) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        place, field = _locate(problem["loc"])
        key = ".".join(place)
        if problem["type"] == "extra_forbidden":
            line = f"`{key}` is not a setting.{_nearest_setting(place)}"
        elif problem["type"] == "missing":
            line = f"`{key}` is missing. Set it{', or pass --' + key if key == 'task' else ''}."
        elif problem["type"] == "value_error":
            line = str(problem["ctx"]["error"])
        elif problem["type"] == "invalid_key":
            line = f"`{key}` is no name, expected text. Remove it, or put it in quotes."
        else:
            expected, value, advice = _expectation(problem["msg"]), problem["input"], _advice(field)
            if field is not None and _is_union(field):  # a problem for each member: say what the setting takes
                expected, value = str(field.description), _value_at(settings, place)
            elif problem["type"] == "string_type":
                advice = "Put it in quotes."
            line = f"`{key}` is {_short(value)}, expected {expected}. {advice}"
        lines.setdefault(key, line)
    if len(lines) == 1:
        return f"1 setting{where} is wrong: {next(iter(lines.values()))}"
    return f"{len(lines)} settings{where} are wrong:\n" + "\n".join(f"  {line}" for line in lines.values())


def _locate(location: tuple[int | str, ...]) -> tuple[list[str], FieldInfo | None]:
    """The dotted place of a problem, without pydantic's marks for members of unions; and its field, if there is one."""
    model: type[BaseModel] | None = RunConfig
    place: list[str] = []
    field: FieldInfo | None = None
    for part in location:
        if model is not None:
            place.append(str(part))
            field = model.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        elif field is not None and not _is_union(field) and part != "[key]":
            place.append(str(part))
    return place, field


def _is_union(field: FieldInfo) -> bool:
    members = [member for member in get_args(field.annotation) if member is not type(None)]
    return get_origin(field.annotation) in (Union, UnionType) and len(members) > 1


def _value_at(settings: Any, place: Sequence[str]) -> Any:
    for part in place:
        settings = settings[part]
    return settings


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


_EXPECTATIONS = {
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid list": "a list",
    "a valid boolean": "true or false",
    "a valid dictionary": "a group, name: value",
}


def _expectation(message: str) -> str:
    """Pydantic's "Input should be a valid number, unable to parse …" as "a number"."""
    expected = message.removeprefix("Input should be ").split(", unable")[0].split(", got")[0].split(" or instance")[0]
    for theirs, ours in _EXPECTATIONS.items():
        if expected.startswith(theirs):
            return expected.replace(theirs, ours)
    return expected


def _advice(field: FieldInfo | None) -> str:
    default = field.default if field is not None and not field.is_required() else None
    if default is None:
        return "Correct it, or leave it out."
    return f"Correct it, or leave it out for {default}." if isinstance(default, (str, int, float)) else "Correct it."


def setting_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name, groups included."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names.extend(setting_names(field.annotation, f"{prefix}{name}."))
    return names


# What others call it.
_OTHER_WORDS = {
    "lr": "training.learning_rate",
    "pre_seq_len": "prompts.prompt_length",
    "num_virtual_tokens": "prompts.prompt_length",
    "prefix_length": "prompts.prompt_length",
    "prefix_projection": "prompts.reparameterization",
    "prefix_hidden_size": "prompts.reparameterization_size",
    "encoder_hidden_size": "prompts.reparameterization_size",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "warmup_ratio": "training.warmup",
    "lr_scheduler_type": "training.schedule",
    "gradient_accumulation_steps": "training.accumulation",
    "max_seq_length": "data.max_length",
    "model_name_or_path": "backbone",
}


def _nearest_setting(place: Sequence[str]) -> str:
    group = ".".join(place[:-1])
    wanted = place[-1].replace("-", "_")
    names = [name for name in setting_names() if name not in _GROUPS]
    here = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == group}
    anywhere = {name.rpartition(".")[2]: name for name in names}
    for known in (here, anywhere, _OTHER_WORDS):
        if wanted in known:
            return f" Did you mean `{known[wanted]}`?"
    for known in (here, {group: group for group in _GROUPS if not place[:-1]}, anywhere, _OTHER_WORDS):
        for nearest in difflib.get_close_matches(wanted, known, n=1, cutoff=0.7):
            return f" Did you mean `{known[nearest]}`?"
    siblings = here or anywhere if place[:-1] else dict.fromkeys(RunConfig.model_fields)
    return f" Known ones{' in ' + group if group and here else ''}: {', '.join(siblings)}."
