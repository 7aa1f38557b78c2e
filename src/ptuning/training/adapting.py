"""From a run's settings to what its method trains, where that is not a bank of prompts at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import read_prompt
from ptuning.config import METHODS, RunConfig
from ptuning.data.batching import Example
from ptuning.errors import ConfigError, PromptError
from ptuning.methods import Adaptation, AllWeights, Biases, LowRank, VirtualTokens, stand_in_of, with_own_weights
from ptuning.methods.starts import from_ids, from_labels, from_noise, ordinary_ids
from ptuning.prompts import GivenPrompts
from ptuning.prompts.input_prompts import InputPrompts
from ptuning.tasks import TaskKind
from ptuning.tasks.verbalizing import asks_each_answer


def no_prompts(backbone: Backbone) -> GivenPrompts:
    """An entry of the bank without virtual tokens at any layer."""
    description = backbone.description
    device = next(backbone.model.parameters()).device
    shape = (description.num_layers, 2, description.num_kv_heads, 0, description.head_dim)
    return GivenPrompts(torch.zeros(shape, device=device))


def make_adaptation(
    config: RunConfig,
    backbone: Backbone,
    kind: TaskKind,
    examples: Sequence[Example],
    generator: torch.Generator,
    *,
    is_spare: bool = False,
) -> tuple[Adaptation | None, Backbone]:
    """Makes what a method trains.

    Args:
        config: resolved settings.
        backbone: frozen; stays as it is, unless it is spare.
        kind: of the task; a pattern of its own says where virtual tokens stand, and its words may be their start.
        examples: training examples, for `prompts.init: tokens`.
        generator: source of random starts.
        is_spare: whether nobody needs the backbone as it is, so that its weights may be trained instead of a copy.

    Returns:
        The adaptation, None for methods that train nothing but a head; and the backbone to use with it, another
        one where its weights are trained.

    Raises:
        ConfigError: settings that contradict each other or the backbone.
        BackboneError: the backbone does not have what the method trains.
        MissingDependencyError: the method needs a package that is not installed.
    """
    _ = backbone.identity  # is remembered: once a method has changed modules, names of weights are others
    trunk, family = find_trunk(backbone.model)
    if METHODS[config.method].has_input_prompts:
        return _make_virtual_tokens(config, backbone, kind, examples, generator), backbone
    match config.method:
        case "bitfit":
            return Biases(trunk, family.model_type), backbone
        case "lora":
            lora = config.lora
            change = LowRank(
                trunk, family, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, modules=lora.modules
            )
            return change, backbone
        case "fine-tuning":
            own = with_own_weights(backbone, is_spare=is_spare)
            return AllWeights(own.model, precision="bf16" if config.training.precision == "bf16" else "fp32"), own
    return None, backbone


def _make_virtual_tokens(
    config: RunConfig,
    backbone: Backbone,
    kind: TaskKind,
    examples: Sequence[Example],
    generator: torch.Generator,
) -> VirtualTokens:
    settings, description = config.prompts, backbone.description
    if settings.mixture > 1 and (kind.head_kind != "sequence" or _asks_each_answer(config, kind, backbone)):
        raise ConfigError(
            f"prompts.mixture is {settings.mixture}, but only labels of whole sequences can be mixed, and the task is "
            f"{kind.name}, or answers are sequences of their own. Leave it out."
        )
    has_places = "{prompt" in (getattr(kind, "pattern", None) or "")
    prompts = InputPrompts(
        _start(config, backbone, kind, examples, generator),
        reparameterization=settings.reparameterization or "none",
        reparameterization_size=settings.reparameterization_size,
        dropout=settings.dropout,
        generator=generator,
    )
    is_perturbed = config.method == "soft-prompts"
    return VirtualTokens(
        prompts,
        backbone.family,
        place="pattern" if has_places else "around" if config.method == "p-tuning" else "front",
        stand_in=stand_in_of(backbone.tokenizer) if backbone.has_weights else 0,
        num_perturbed=description.num_layers - 1 if is_perturbed else 0,
        hidden_size=description.hidden_size if is_perturbed else 0,
    )


def _asks_each_answer(config: RunConfig, kind: TaskKind, backbone: Backbone) -> bool:
    return config.head.kind == "verbalizer" and asks_each_answer(kind, backbone.tokenizer)


def _start(
    config: RunConfig,
    backbone: Backbone,
    kind: TaskKind,
    examples: Sequence[Example],
    generator: torch.Generator,
) -> Tensor:
    """What the virtual tokens start from: (mixture, prompt_length, embedding_size)."""
    settings = config.prompts
    trunk: Any = find_trunk(backbone.model)[0]
    embeddings: Any = trunk.get_input_embeddings()
    weight: Tensor = embeddings.weight
    # what the layer gives is replaced, and some (Gemma's) give more than they hold
    times = float(getattr(embeddings, "embed_scale", 1.0)) if backbone.has_weights else 1.0
    count = settings.mixture * settings.prompt_length
    shape = (settings.mixture, settings.prompt_length, int(weight.shape[1]))
    if settings.init is None or settings.init == "normal":
        is_scaled = settings.reparameterization == "none" and backbone.has_weights
        scale = float(weight.float().std()) * times if is_scaled else 1.0
        return from_noise(shape, settings.init_std * scale, generator)
    tokenizer = backbone.tokenizer
    match settings.init:
        case "vocabulary":
            made = from_ids(weight, ordinary_ids(tokenizer, len(weight)), count, generator)
        case "tokens":
            seen = {number for example in examples for sequence in example.sequences for number in sequence}
            ids = sorted(seen & set(ordinary_ids(tokenizer, len(weight)).tolist()))
            if not ids:
                raise PromptError("prompts.init is tokens, but the training data have no tokens. Check the data.")
            made = from_ids(weight, torch.tensor(ids), count, generator)
        case "text":
            ids = tokenizer(settings.init_text, add_special_tokens=False, verbose=False)["input_ids"]
            if not ids:
                raise PromptError(
                    f"prompts.init_text is {settings.init_text!r}, which has no tokens. Give a text to start from."
                )
            if len(ids) < settings.mixture:
                raise PromptError(
                    f"prompts.init_text is {settings.init_text!r}, {len(ids)} tokens, but prompts.mixture is "
                    f"{settings.mixture}: prompts that start the same stay the same. Give at least "
                    f"{settings.mixture} tokens, so that each prompt can start at another."
                )
            made = torch.cat(
                [
                    from_ids(weight, torch.tensor(ids).roll(-number), settings.prompt_length)
                    for number in range(settings.mixture)
                ]
            )
        case "labels":
            ordinary = ordinary_ids(tokenizer, len(weight))
            made = from_labels(weight, _label_ids(kind, tokenizer), ordinary, count, generator)
        case path:
            return _saved_start(path, shape, backbone, config.method)
    return (made * times).view(shape)


def _label_ids(kind: TaskKind, tokenizer: Any) -> list[list[int]]:
    """Token ids of each label's words, or of its name where it has none."""
    words = getattr(kind, "words", None) or getattr(kind, "label_names", None)
    if not words:
        raise ConfigError(
            f"prompts.init is labels, but a task of kind {kind.name} has no label names. Use vocabulary or text."
        )
    texts = [str(word).replace("_", " ") for word in words]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if ids]


def _saved_start(path: str, shape: tuple[int, int, int], backbone: Backbone, method: str) -> Tensor:
    if not Path(path).exists():
        raise ConfigError(
            f"prompts.init is {path!r}, expected normal, vocabulary, labels, tokens, text, or the path of a saved "
            "prompt, and there is no such path. Correct it."
        )
    saved = read_prompt(path)
    saved.backbone.require(backbone.identity, any_quantization=True)  # a start need not be exact
    found = saved.adaptation.tensors.get("input_prompts")
    if found is None or tuple(found.shape) != shape:
        has = f"method {saved.method}" if found is None else f"(mixture, prompt_length, width) {tuple(found.shape)}"
        raise PromptError(
            f"the saved prompt {path} has {has}, expected virtual tokens of the input {shape} for {method}. Name one "
            "of the same form, or set prompts.init to normal."
        )
    return found
