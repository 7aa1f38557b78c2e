"""From what a saved prompt holds to the adaptation that it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import SavedAdaptation
from ptuning.errors import CheckpointError
from ptuning.methods.adaptation import Adaptation
from ptuning.methods.all_weights import AllWeights, with_own_weights
from ptuning.methods.biases import Biases
from ptuning.methods.low_rank import LowRank
from ptuning.methods.virtual_tokens import VirtualTokens, stand_in_of


def save_adaptation(adaptation: Adaptation) -> SavedAdaptation:
    """Returns what is kept of an adaptation."""
    return SavedAdaptation(adaptation.options(), adaptation.saved_tensors(), adaptation.saved_weights())


def restore_adaptation(
    method: str,
    saved: SavedAdaptation,
    backbone: Backbone,
    *,
    dtype: torch.dtype | None = None,
    is_spare: bool = False,
) -> tuple[Adaptation | None, Backbone]:
    """Makes what was saved.

    Args:
        method: of the saved prompt.
        saved: what it holds besides prompts at every layer.
        backbone: that it was trained on; stays as it is, unless it is spare.
        dtype: what a tuned backbone computes its products in; by default as in training. Its weights are float32.
        is_spare: whether nobody needs the backbone as it is, so that tuned weights may take the place of its own.

    Returns:
        The adaptation, None for methods that need none; and the backbone to use with it, another one where its
        weights were trained.

    Raises:
        CheckpointError: tensors are missing or of other shapes than this backbone needs.
        MissingDependencyError: the method needs a package that is not installed.
    """
    trunk, family = find_trunk(backbone.model)
    options = saved.options
    match method:
        case "prompt-tuning" | "p-tuning" | "soft-prompts":
            stand_in = stand_in_of(backbone.tokenizer)
            made = VirtualTokens.from_saved(saved.tensors, options, family, stand_in=stand_in)
            _check_width(made, trunk, backbone)
            return made, backbone
        case "bitfit":
            biases = Biases(trunk, family.model_type)
            _check(saved.tensors, biases.saved_tensors(), "the biases")
            biases.load(saved.tensors)
            return biases, backbone
        case "lora":
            change = LowRank(
                trunk,
                family,
                rank=options.get("rank", 0),
                alpha=options.get("alpha", 0.0),
                modules=options.get("modules"),
            )
            change.attach(trunk)  # makes the tensors; the model attaches it anew, with these
            try:
                _check(saved.tensors, change.saved_tensors(), "the low-rank change")
            finally:
                change.remove()
            change.start_from(saved.tensors)
            return change, backbone
        case "fine-tuning":
            own = with_own_weights(backbone, is_spare=is_spare)
            is_half = options.get("precision") == "bf16" if dtype is None else dtype == torch.bfloat16
            weights = AllWeights(own.model, precision="bf16" if is_half else "fp32")
            _check(saved.weights, weights.saved_weights(), "the weights")
            weights.load(saved.weights)
            return weights, own
    return None, backbone


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Makes sure that tensors have the names and shapes that are expected."""
    if set(found) != set(expected):
        lacking, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        first = f"no {lacking[0]}" if lacking else f"{extra[0]}, which is none of theirs"
        raise CheckpointError(
            f"{what} that were saved have {len(found)} tensors and {first}, expected {len(expected)} for this "
            "backbone. Restore them from where they came from."
        )
    for name, tensor in sorted(found.items()):
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{what} that were saved have {name} of shape {tuple(tensor.shape)}, expected "
                f"{tuple(expected[name].shape)} for this backbone. Restore them from where they came from."
            )


def _check_width(made: VirtualTokens, trunk: nn.Module, backbone: Backbone) -> None:
    width = int(trunk.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    if made.prompts.shape[2] != width:
        raise CheckpointError(
            f"the saved virtual tokens have embeddings of {made.prompts.shape[2]} numbers, expected {width} for this "
            "backbone. Restore them from where they came from."
        )
    size = backbone.description.num_layers - 1, backbone.description.hidden_size
    changes = made.perturbations
    if changes is not None and (changes.shape[1], changes.shape[3]) != size:
        raise CheckpointError(
            f"the saved virtual tokens change {changes.shape[1]} layers of width {changes.shape[3]}, expected "
            f"{size[0]} of width {size[1]} for this backbone. Restore them from where they came from."
        )
