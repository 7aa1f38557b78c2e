"""Settings that a run's method does not have: the one table of which method reads what.

Given by the user for one method they are an error. Where settings are common to several methods (a recipe, the groups
of a comparison), each method takes those that it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptuning.config.settings import LoraConfig, PromptsConfig, RunConfig, TrainingConfig
from ptuning.errors import ConfigError

if TYPE_CHECKING:
    from ptuning.config.methods import Method

_WITHOUT_STEPS = (
    "micro_batch_tokens",
    "precision",
    "quantization",
    "attention",
    "packing",
    "metric",
    "seed",
    "device",
)
"""Settings of `training` that methods have too which make no steps."""
_FILLED_IN = {
    "prompts.reparameterization": "none",
    "prompts.init": "normal",
    "training.backbone_dropout": "checkpoint",
}
"""What a complete config says where a method has no prompts, or makes no steps; it means the same as nothing."""


def foreign_settings(config: RunConfig, method: Method) -> dict[str, str]:
    """Returns which settings have other values than their defaults, though the method does not have them.

    A setting that is left at its default says nothing, so a complete `config.yaml` of an earlier run has none.

    Args:
        config: of a run.
        method: of it.

    Returns:
        Dotted name -> why the method does not have it, such as `method bitfit has no prompts`.
    """
    found = {}
    for name, reason in _lacking(method, config.head.kind or method.heads[0]).items():
        group, _, last = name.partition(".")
        settings = getattr(config, group)
        value, default = getattr(settings, last), type(settings).model_fields[last].get_default()
        if value not in (default, _FILLED_IN.get(name, default)):
            found[name] = reason
    return found


def check_settings_of(config: RunConfig, method: Method) -> None:
    """Makes sure that a method has all settings that are given.

    Raises:
        ConfigError: it does not have some (all are listed).
    """
    lines = []
    for name, reason in foreign_settings(config, method).items():
        group, _, last = name.partition(".")
        value = getattr(getattr(config, group), last)
        lines.append(f"{name} is {'on' if value is True else value}, but {reason}. Leave it out.")
    if len(lines) == 1:
        raise ConfigError(lines[0])
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ConfigError(f"{len(lines)} settings are none of method {method.name}:\n{listed}")


def _lacking(method: Method, head: str) -> dict[str, str]:
    """Dotted names of the settings that a method does not have -> why."""
    lacking: dict[str, str] = {}

    def lacks(group: str, names: Iterable[str], reason: str) -> None:
        for name in names:
            lacking.setdefault(f"{group}.{name}", reason)

    if not method.has_deep_prompts:
        lacks("prompts", ["gate"], f"method {method.name} has no values at every layer to gate")
        lacks("training", ["value_learning_rate"], f"method {method.name} trains no keys and values")
    if not method.reparameterizations:
        lacks("prompts", PromptsConfig.model_fields, f"method {method.name} has no prompts")
    if method.has_input_prompts:
        lacks("prompts", ["layers"], f"the virtual tokens of {method.name} enter at the embeddings alone")
        lacks("prompts", ["positions"], f"the virtual tokens of {method.name} have positions of their own")
    if method.name != "soft-prompts":
        lacks("prompts", ["mixture"], f"method {method.name} has no mixture of prompts, as soft-prompts has")
    if method.name != "lora":
        lacks("lora", LoraConfig.model_fields, f"method {method.name} has no low-rank change, as lora has")
    if not method.makes_steps:
        of_steps = [name for name in TrainingConfig.model_fields if name not in _WITHOUT_STEPS]
        lacks("training", of_steps, f"method {method.name} makes no steps")
        lacks("head", ["init", "dropout"], f"method {method.name} trains no head by steps")
    if method.trains_backbone:
        lacks("training", ["quantization"], f"method {method.name} trains the weights that would be stored so")
    if not method.has_deep_prompts:
        lacks("training", ["compile"], f"method {method.name} changes what compiled layers cannot see")
    if method.name == "soft-prompts":
        again = "what soft-prompts adds to layers is not there when they are computed again"
        lacks("training", ["gradient_checkpointing"], again)
    if head == "verbalizer":
        nothing = "head.kind is verbalizer, which trains and pools nothing"
        lacks("head", ["init", "dropout", "pooling", "missing_pooler"], nothing)
        lacks("training", ["head_learning_rate"], nothing)
    else:
        lacks("head", ["words"], "head.kind is linear, which reads no words")
    return lacking
