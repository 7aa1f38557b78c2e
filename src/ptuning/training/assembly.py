"""From a run's settings to a model that can be trained: the one place where settings become modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.families import position_limit
from ptuning.backbones.loading import Backbone
from ptuning.backbones.packing import can_pack, require_packing
from ptuning.backbones.pieces import PieceTokens
from ptuning.backbones.recomputation import start_recomputing
from ptuning.checkpoint import load_tensors_into, read_prompt
from ptuning.config import METHODS, PromptsConfig, RunConfig
from ptuning.config.methods import DEEP_STARTS, backbone_dropout
from ptuning.data.batching import Example, collate
from ptuning.errors import ConfigError
from ptuning.heads import draw_pooler
from ptuning.inference import padding_ids
from ptuning.methods import Adaptation
from ptuning.model import PromptedModel
from ptuning.prompts import DeepPrompts, Entry, PromptBank, resolve_layers
from ptuning.prompts.initialization import draw_like, from_saved, pick_tokens
from ptuning.tasks import TaskKind
from ptuning.tasks.heads import linear_head
from ptuning.tasks.verbalizing import make_verbalizer
from ptuning.training.adapting import make_adaptation, no_prompts
from ptuning.training.seed import generator_for

_ENOUGH_EXAMPLES = 32  # some hundred tokens, for the mean and deviation of keys and values


def fitting_max_length(config: RunConfig, backbone: Backbone, usual: int) -> int:
    """Returns the real tokens a sequence may have: what the config says, or what is usual as far as it fits.

    Virtual tokens are not among them, wherever they stand; where they occupy positions, fewer are left.

    Args:
        config: of the run.
        backbone: whose positions limit it.
        usual: where the config does not say: of the task, or of its kind.

    Raises:
        ConfigError: the config's length, with the positions that virtual tokens take, is more than the backbone has.
    """
    limit = position_limit(backbone.model.config, backbone.family)
    has_prompts, length = METHODS[config.method].has_deep_prompts, config.prompts.prompt_length
    is_shifted = has_prompts and config.prompts.positions == "shifted"
    shift = length if is_shifted or METHODS[config.method].has_input_prompts else 0
    asked = config.data.max_length
    if limit is None:
        return asked or usual
    if limit - shift < 3:
        what = "`positions: shifted`" if is_shifted else f"method {config.method}"
        raise ConfigError(
            f"prompts.prompt_length is {shift} with {what}, which leaves {limit - shift} of the {limit} positions of "
            f"{backbone.name} for tokens. Use shorter prompts{' or `positions: unshifted`' if is_shifted else ''}."
        )
    if asked is not None and asked + shift > limit:
        adding = "prompts.positions `shifted`" if is_shifted else f"method {config.method}"
        raise ConfigError(
            f"data.max_length is {asked}"
            + (f" and {adding} adds prompt_length {shift}" if shift else "")
            + f", but {backbone.name} has {limit} positions. Set data.max_length to at most {limit - shift}"
            + (", or prompts.positions to unshifted." if is_shifted else ".")
        )
    return min(asked or usual, limit - shift)


def assemble_model(
    config: RunConfig,
    backbone: Backbone,
    kind: TaskKind,
    examples: Sequence[Example],
    *,
    other_kinds: Sequence[TaskKind] = (),
    other_configs: Sequence[RunConfig] = (),
    is_spare: bool = False,
) -> PromptedModel:
    """Makes prompts, bank and head as the config says, and joins them to the backbone.

    Args:
        config: resolved settings.
        backbone: frozen, without prompts.
        kind: decides the head.
        examples: training examples, for `prompts.init: tokens`.
        other_kinds: those of further data sets that share the prompts, each with a head of its own after the first.
        other_configs: those of further candidates, each with an entry of the bank and all heads of its own.
        is_spare: whether nobody needs the backbone as it is, so that a method may train its weights instead of a copy.

    Raises:
        ConfigError: settings that contradict each other or the backbone.
        PromptError: a saved prompt to start from does not fit.
        CheckpointError: a saved prompt to start from is damaged, or its head is of another form.
    """
    if config.training.gradient_checkpointing and not backbone.family.gradient_checkpointing:
        raise ConfigError(
            f"training.gradient_checkpointing is on, but transformers has none for {backbone.family.model_type}. "
            "Turn it off; a smaller training.batch_size with training.accumulation saves memory too."
        )
    is_packed = _is_packed(config, backbone)
    bank = PromptBank(backbone.description.num_layers)
    heads: list[nn.Module] = []
    adaptation: Adaptation | None = None
    for one in (config, *other_configs):
        generator = torch.Generator().manual_seed(one.training.seed)
        if METHODS[one.method].has_deep_prompts:
            layers = resolve_layers(one.prompts.layers, backbone.description.num_layers)
            pieces = backbone.pieces if one.head.kind == "verbalizer" else None  # what examples are made with
            prompts = _make_prompts(one.prompts, backbone, layers, examples, generator, pieces)
            bank.add(prompts, layers=layers, positions=one.prompts.positions)
        else:
            _check_serves_one(one, len(other_kinds) + len(other_configs))
            bank.add(no_prompts(backbone))
            adaptation, backbone = make_adaptation(one, backbone, kind, examples, generator, is_spare=is_spare)
        heads += _make_heads(one, backbone, (kind, *other_kinds))
    model = PromptedModel(
        backbone,
        bank,
        heads,
        backbone_dropout=backbone_dropout(config),
        packing=is_packed,
        compiled=config.training.compile,
        adaptation=adaptation,
        check=backbone.has_weights,
    )
    if config.training.gradient_checkpointing:
        start_recomputing(backbone.model)
    return model


def _check_serves_one(config: RunConfig, others: int) -> None:
    if others:
        raise ConfigError(
            f"method {config.method} was asked to train {others + 1} data sets or candidates on one backbone, which "
            "takes prompts at every layer that rows can choose. Use p-tuning-v2 or prefix-tuning, or train them apart."
        )


def _is_packed(config: RunConfig, backbone: Backbone) -> bool:
    """Whether batches are packed.

    Raises:
        ConfigError: virtual tokens of the input are not packed; or flex attention, which packing needs, is not there or
            cannot train here: it has gradients on a GPU only, and no dropout of attention weights.
    """
    trunk_config = backbone.model.config
    device = next(backbone.model.parameters()).device
    is_flex, is_asked = can_pack(backbone.family, trunk_config), config.training.packing == "on"
    has_input_prompts = METHODS[config.method].has_input_prompts
    if has_input_prompts and is_asked:
        raise ConfigError(
            f"training.packing is on, but sequences with the virtual tokens of {config.method} are not packed. Set "
            "it to auto."
        )
    has_pieces = config.head.kind == "verbalizer" and backbone.pieces is not None
    if has_pieces and is_asked:
        raise ConfigError(
            f"training.packing is on, but {backbone.name} fills blanks by pieces, and rows that see their texts in "
            "another way each are not packed. Set it to auto, or head.kind to linear."
        )
    if device.type in ("cpu", "mps") and (is_flex or is_asked):
        setting, other = ("packing", "auto") if is_asked else ("attention", "sdpa")
        raise ConfigError(
            f"training.{setting} is {getattr(config.training, setting)}, but the device is {device.type}, where torch "
            f"computes no gradients of flex attention. Set training.{setting} to {other}, or train on a GPU."
        )
    if is_asked:
        require_packing(backbone.family, trunk_config)
    names = ("attention_probs_dropout_prob", "attention_dropout")
    dropout = max(float(getattr(trunk_config, name, None) or 0.0) for name in names)
    if is_flex and dropout and backbone_dropout(config) != "off":
        raise ConfigError(
            f"training.attention is flex_attention, which cannot drop attention weights, but the checkpoint drops them "
            f"with probability {dropout} (training.backbone_dropout is {backbone_dropout(config)}). "
            "Set training.backbone_dropout to off, or training.attention to sdpa."
        )
    is_free = is_flex and not has_input_prompts and not has_pieces
    return is_asked or (is_free and config.training.packing == "auto")


def _make_prompts(
    settings: PromptsConfig,
    backbone: Backbone,
    layers: tuple[int, ...],
    examples: Sequence[Example],
    generator: torch.Generator,
    pieces: PieceTokens | None,
) -> DeepPrompts:
    description = backbone.description
    return DeepPrompts(
        num_prompted_layers=len(layers),
        num_kv_heads=description.num_kv_heads,
        prompt_length=settings.prompt_length,
        head_dim=description.head_dim,
        init_std=settings.init_std,
        initial=_initial_prompts(settings, backbone, layers, examples, generator, pieces),
        gate=settings.gate,
        reparameterization="mlp" if settings.reparameterization == "mlp" else "none",
        hidden_size=description.hidden_size,
        reparameterization_size=settings.reparameterization_size,
        dropout=settings.dropout,
        generator=generator,
    )


def _make_heads(config: RunConfig, backbone: Backbone, kinds: Sequence[TaskKind]) -> list[nn.Module]:
    """A head for each data set; the first may start from a saved one.

    The normal start depends on the seed alone: methods, prompt lengths and candidates begin with one and the same head,
    and so does a data set that is trained alone or with others.
    """
    if config.head.kind == "verbalizer":
        scores, penalty = backbone.language_modeling_head, config.head.length_penalty
        return [make_verbalizer(kind, backbone.tokenizer, scores, length_penalty=penalty) for kind in kinds]
    pooling, pooler, seed = config.head.pooling or backbone.pooling, backbone.pooler, config.training.seed
    is_pooled = any(kind.head_kind in ("sequence", "choice") for kind in kinds)
    if pooling in ("cls", "pooler") and backbone.is_causal and is_pooled:
        raise ConfigError(
            f"head.pooling is {pooling}, but the first token of a causal backbone sees nothing behind it, so all "
            "texts would look alike there. Use last or mean, or set attention_direction to bidirectional."
        )
    if pooling == "pooler" and pooler is None and config.head.missing_pooler == "draw":
        width, std = backbone.description.hidden_size, backbone.description.initializer_range
        pooler = draw_pooler(width, std=std, generator=generator_for("pooler", seed))
    heads = [
        linear_head(
            kind,
            backbone,
            pooling=pooling,
            pooler=pooler,
            dropout=config.head.dropout,
            generator=generator_for("head", seed),
        )
        for kind in kinds
    ]
    if config.head.init != "normal":
        _start_head(heads[0], config.head.init, backbone, kinds[0])
    return heads


def _initial_prompts(
    prompts: PromptsConfig,
    backbone: Backbone,
    layers: tuple[int, ...],
    examples: Sequence[Example],
    generator: torch.Generator,
    pieces: PieceTokens | None,
) -> Tensor | None:
    """Returns the values that prompts start from, or None for the normal start."""
    if prompts.init in (None, "normal") or prompts.prompt_length == 0:
        return None
    if prompts.init == "tokens":
        return _from_examples(prompts, backbone, layers, examples, generator, pieces)
    if prompts.init == "statistics":
        inputs = _some_examples(backbone, examples, _ENOUGH_EXAMPLES, generator, pieces)
        return draw_like(_captured(backbone, inputs, layers, None), prompts.prompt_length, generator)
    if prompts.init == "text":
        encoded = backbone.tokenizer(prompts.init_text, return_tensors="pt", truncation=True)
        tokens = pick_tokens(int(encoded["attention_mask"].sum()), prompts.prompt_length)
        return _captured(backbone, encoded, layers, tokens)
    if not Path(prompts.init).exists():
        raise ConfigError(
            f"prompts.init is {prompts.init!r}, expected {', '.join(DEEP_STARTS)}, or the path of a saved prompt, "
            "and there is no such path. Correct it."
        )
    saved = read_prompt(prompts.init)
    saved.backbone.require(backbone.identity, any_quantization=True)  # a start need not be exact
    entry, wanted = Entry(tuple(saved.layers), saved.positions), Entry(layers, prompts.positions)
    return from_saved(saved.prompts, entry, wanted=wanted, prompt_length=prompts.prompt_length)


def _start_head(head: nn.Module, init: str, backbone: Backbone, kind: TaskKind) -> None:
    """Gives a new head the weights of a saved one."""
    if not Path(init).exists():
        raise ConfigError(
            f"head.init is {init!r}, expected normal or the path of a saved prompt, and there is no such path. "
            "Correct it."
        )
    saved = read_prompt(init)
    saved.backbone.require(backbone.identity, any_quantization=True)  # a start need not be exact
    names = None if saved.task is None else saved.task.get("label_names")
    wanted = getattr(kind, "label_names", None)
    if saved.task is None or saved.task["kind"] != kind.name or (names and tuple(names)) != wanted:
        found = "no head" if saved.task is None else f"a head for {saved.task['kind']} with {_shown(names)}"
        raise ConfigError(
            f"head.init is {init!r}, which has {found}, expected one for {kind.name} with {_shown(wanted)}. Name a "
            "prompt that was trained for the same labels, or set head.init to normal."
        )
    load_tensors_into(head, saved.head_tensors, f"the head of {init}")


def _shown(names: Sequence[str] | None) -> str:
    return f"the labels {', '.join(names)}" if names else "no label names"


def _from_examples(
    prompts: PromptsConfig,
    backbone: Backbone,
    layers: Sequence[int],
    examples: Sequence[Example],
    generator: torch.Generator,
    pieces: PieceTokens | None,
) -> Tensor:
    """Picks tokens at random from as many training examples as there are virtual tokens."""
    inputs = _some_examples(backbone, examples, max(prompts.prompt_length, 8), generator, pieces)
    tokens = pick_tokens(int(inputs["attention_mask"].sum()), prompts.prompt_length, generator)
    return _captured(backbone, inputs, layers, tokens)


def _some_examples(
    backbone: Backbone,
    examples: Sequence[Example],
    count: int,
    generator: torch.Generator,
    pieces: PieceTokens | None,
) -> dict[str, Tensor]:
    """Some training examples, drawn without repetition, as keyword arguments of the backbone."""
    order = torch.randperm(len(examples), generator=generator)[:count]
    batch = collate([examples[int(index)] for index in order], *padding_ids(backbone.tokenizer))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    if pieces is not None:
        inputs |= pieces.inputs(batch.input_ids)
    return inputs


def _captured(backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], tokens: Tensor | None) -> Tensor:
    device = next(backbone.model.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    return capture_keys_values(backbone.model, **moved, layers=layers, tokens=tokens).cpu()
