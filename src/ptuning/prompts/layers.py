"""Which layers carry prompts: from what people write to a sorted tuple of layer numbers.

Layers are numbered from 0 at the embeddings upwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ptuning.errors import ConfigError

ACCEPTED = "`all`, `first:K`, `last:K`, a range such as `16-23`, a number, or a list of numbers"


def resolve_layers(layers: str | int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Turns a choice of layers into sorted layer numbers.

    Args:
        layers: `all`, `first:8`, `last:8`, `16-23` (both ends included), a number, or a list of numbers.
        num_layers: layers that the backbone has.

    Returns:
        Layer numbers, ascending, each once, each in [0, num_layers).

    Raises:
        ConfigError: the choice cannot be read, is empty, repeats a layer, or names one the backbone does not have.
    """
    if isinstance(layers, str):
        chosen = _parse(layers.strip(), num_layers)
    elif isinstance(layers, int):
        chosen = [layers]
    else:
        chosen = list(layers)
    if not chosen or not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in chosen):
        raise ConfigError(f"prompts.layers is {layers!r}, expected {ACCEPTED}.")
    outside = [layer for layer in chosen if not 0 <= layer < num_layers]
    if outside:
        raise ConfigError(
            f"prompts.layers is {layers!r} and names layer {outside[0]}, but the backbone has layers 0 to "
            f"{num_layers - 1}. Choose among those; layer 0 is next to the embeddings."
        )
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"prompts.layers is {layers!r} and names a layer twice. Name each layer once.")
    return tuple(sorted(chosen))


def _parse(text: str, num_layers: int) -> list[int]:
    if text == "all":
        return list(range(num_layers))
    if match := re.fullmatch(r"(first|last):(\d+)", text):
        count = int(match[2])
        if not 1 <= count <= num_layers:
            raise ConfigError(
                f"prompts.layers is {text!r}, but the backbone has {num_layers} layers. "
                f"Use a number from 1 to {num_layers} after `{match[1]}:`."
            )
        return list(range(count)) if match[1] == "first" else list(range(num_layers - count, num_layers))
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        return list(range(int(match[1]), int(match[2]) + 1))
    if re.fullmatch(r"\d+(\s*,\s*\d+)*", text):
        return [int(part) for part in text.split(",")]
    raise ConfigError(f"prompts.layers is {text!r}, expected {ACCEPTED}.")
