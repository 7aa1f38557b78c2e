"""The least time that a step can take: its matrix products at the best rate that this machine shows for them.

Counted are the matrices of the layers, 2 operations a parameter and position for each product that they take part in:

- forward: 2;
- backward to a layer's input: 2, where something below needs it. Nothing does below the lowest prompted layer, nor for
  the query, key and value of that layer, whose inputs come from below;
- backward to the weights: 2, where they are trained.

Left out are embeddings, attention scores, norms, activations, the head and the optimizer: a step that reaches the floor
would do them in no time. A position is a token that is computed, padding included; virtual tokens pass no matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ptuning import Backbone

_INPUT_SIDE = {"query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin", "q", "k", "v"}
_INPUT_SIDE |= {"Wqkv", "qkv_proj"}


@dataclass(frozen=True)
class LayerSize:
    """Parameters of a layer's matrices.

    Attributes:
        input_side: those of query, key and value.
        rest: all others.
    """

    input_side: int
    rest: int


@dataclass(frozen=True)
class Matrices:
    """The matrices of a backbone's layers.

    Attributes:
        layers: from the lowest.
        shapes: (out_features, in_features) of each kind of matrix.
    """

    layers: tuple[LayerSize, ...]
    shapes: tuple[tuple[int, int], ...]


def matrices_of(backbone: Backbone) -> Matrices:
    """Finds the matrices of a backbone's layers.

    Raises:
        SystemExit: the layers are not a list of modules, as where they share weights.
    """
    count = backbone.description.num_layers
    stacks = [m for m in backbone.model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not stacks:
        raise SystemExit(f"no list of {count} layers was found in {backbone.name}, so its floor is not known")
    layers, shapes = [], set()
    for layer in stacks[0]:
        linear = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        shapes |= {(module.out_features, module.in_features) for module in linear.values()}
        sizes = {True: 0, False: 0}
        for name, module in linear.items():
            sizes[name.rpartition(".")[2] in _INPUT_SIDE] += module.weight.numel()
        layers.append(LayerSize(sizes[True], sizes[False]))
    return Matrices(tuple(layers), tuple(sorted(shapes)))


def operations_per_position(matrices: Matrices, *, lowest_prompted: int = 0, trains_weights: bool = False) -> int:
    """Returns the operations of forward and backward for a position.

    Args:
        matrices: of the backbone.
        lowest_prompted: number of the lowest layer with prompts.
        trains_weights: fine-tuning of all weights; prompts play no part then.
    """
    total = 0
    for number, layer in enumerate(matrices.layers):
        if trains_weights:
            total += 6 * (layer.input_side + layer.rest)
        elif number > lowest_prompted:
            total += 4 * (layer.input_side + layer.rest)
        elif number == lowest_prompted:
            total += 2 * layer.input_side + 4 * layer.rest
        else:
            total += 2 * (layer.input_side + layer.rest)
    return total


def add_floor(epochs: Mapping[str, dict[str, Any]], matrices: Matrices, rates: Mapping[str, float]) -> None:
    """Adds to each side of an epoch's comparison its floor, and the share of the time that the floor is.

    Args:
        epochs: side -> what `compare_epochs` measured; those whose name begins with `full` train all weights.
        matrices: of the backbone.
        rates: precision -> operations a second.
    """
    for side, measured in epochs.items():
        operations = operations_per_position(matrices, trains_weights=side.startswith("full"))
        seconds = operations * measured["positions_of_epoch"] / rates[measured["precision"]]
        measured["floor_seconds"] = round(seconds, 3)
        measured["share_of_floor"] = round(seconds / measured["epoch_seconds"], 3)


def spread_of(positions: Sequence[int]) -> list[int]:
    """The smallest, the middle and the largest of some batches."""
    ordered = sorted(positions)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
