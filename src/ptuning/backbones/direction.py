"""Which way attention looks: from left to right, as decoders were trained, or both ways.

A decoder is switched where transformers reads it: `config.is_causal = False` makes its masks bidirectional. Its
attention modules have a flag of their own, which alone counts where a batch has no padding and so no mask; switching
the config and not the modules would leave such batches causal. Virtual tokens are visible to every token either way.

    token      a b c d          causal: c sees the virtual tokens, a, b, c       bidirectional: all of them
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from ptuning.backbones.families import Family
from ptuning.errors import ConfigError

Direction = Literal["causal", "bidirectional"]


def direction_of(family: Family, config: Any) -> Direction:
    """Returns which way attention looks in a model with this config.

    Args:
        family: of the model.
        config: of its trunk; None stands for one without anything unusual.
    """
    if not family.is_decoder:
        return "causal" if family.heeds_is_decoder and getattr(config, "is_decoder", False) else "bidirectional"
    return "bidirectional" if is_switched(config) or _was_trained_both_ways(config) else "causal"


def is_switched(config: Any) -> bool:
    """Whether a config asks transformers for bidirectional masks where the model's own would be causal."""
    return getattr(config, "is_causal", None) is False


def _was_trained_both_ways(config: Any) -> bool:
    return bool(getattr(config, "use_bidirectional_attention", False))  # Gemma's, as EmbeddingGemma sets it


def switch_config(family: Family, config: Any, asked: Direction | None) -> None:
    """Makes a config say which way attention is to look, before a model is made of it.

    Args:
        family: of the model.
        config: changed where it has to be.
        asked: `bidirectional` for a decoder that was trained causal; None, or what it is anyway, changes nothing.

    Raises:
        ConfigError: `causal` was asked of a model that was trained to look both ways, or `bidirectional` of one of an
            encoder's family whose config makes it a decoder.
    """
    trained = direction_of(family, config)
    if asked == "causal" and trained == "bidirectional":
        raise ConfigError(
            f"attention_direction is causal, but this {family.model_type} was trained with attention both ways, "
            "expected a decoder that was trained from left to right. Leave attention_direction out."
        )
    if asked == "bidirectional" and trained == "causal" and not family.is_decoder:
        raise ConfigError(
            f"attention_direction is bidirectional, but the config.json of this {family.model_type} has is_decoder, "
            "which makes it causal, expected an encoder's or a checkpoint of a decoder's family. Leave "
            "attention_direction out, or set is_decoder to false in a copy of that file."
        )
    if not family.is_decoder:
        return
    # gemma3_text makes such masks by itself, with windows of its own; older Gemmas have the setting and causal masks
    makes_own_masks = family.model_type == "gemma3_text" and trained == "bidirectional"
    if "bidirectional" in (asked, trained) and not makes_own_masks:
        config.is_causal = False


def switch_modules(family: Family, config: Any, modules: Iterable[nn.Module]) -> None:
    """Makes attention modules do what the config of their model says where there is no mask.

    Args:
        family: of the model.
        config: of `switch_config`.
        modules: the self-attention modules.
    """
    if family.is_decoder and direction_of(family, config) == "bidirectional":
        for module in modules:
            module.is_causal = False  # type: ignore[assignment]


def window_counts_itself(family: Family, config: Any) -> bool:
    """Tells what `sliding_window` means to a layer with local attention.

    Causal windows are so many tokens, the one that looks counted. Where it is False, they are how far it sees to each
    side: so transformers makes its bidirectional masks, and so a decoder that is switched has them.

    Args:
        family: of the model.
        config: of its trunk.
    """
    return not (family.window_is_a_distance or (family.is_decoder and is_switched(config)))
