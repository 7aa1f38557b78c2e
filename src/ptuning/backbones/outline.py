"""A backbone of shapes alone: what its config says, without weights, for counting what it would need.

Made where tensors have no memory (`planning.recording.ShapesAlone`), it has the modules, parameters and buffers that
`load_backbone` would give, of the same types.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from ptuning.backbones.configuring import Attention, configure, refused_attention
from ptuning.backbones.direction import Direction, switch_modules
from ptuning.backbones.families import attention_modules, find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.backbones.poolers import take_pooler
from ptuning.backbones.quantization import Quantization, outline_quantized_layers
from ptuning.errors import BackboneError


def outline_backbone(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "auto",
    attention_direction: Direction | None = None,
    quantization: Quantization = "none",
) -> Backbone:
    """Makes the outline of a backbone. Of what it was saved with only `config.json` is read.

    A checkpoint may lack the pooler that its family has; here it is there.

    Args:
        name: a Hugging Face name, a local directory in hub layout, or `minilm`.
        revision: commit, branch or tag on the hub.
        dtype: storage of its weights.
        attention: base implementation.
        attention_direction: of a decoder.
        quantization: what the weights of its layers' linear layers would be rounded to.

    Raises:
        BackboneError: not found, of an unsupported family, its config is not one of a whole model, or it does not have
            the attention.
        MissingDependencyError: `minilm` without its package.
    """
    _know_packed_weights()
    options = {"revision": revision, "trust_remote_code": False}
    asked = configure(name, options, attention=attention, attention_direction=attention_direction)
    config, family, name = asked.config, asked.family, asked.name
    try:
        with no_init_weights():
            model = asked.loader.from_config(config, dtype=dtype, attn_implementation=asked.attention)
        model.tie_weights()  # part of the initialization that was left out; T5 has its embeddings twice without
    except (ValueError, ImportError, TypeError) as error:
        if refusal := refused_attention(asked):
            raise refusal from error
        raise BackboneError(
            f"the config.json of {name} makes no {family.model_type}: {error}. Check that it is the checkpoint's own."
        ) from error
    switch_modules(family, config, attention_modules(find_trunk(model)[0], family))
    pooler = take_pooler(model)
    model.requires_grad_(False).eval()
    if pooler is not None:
        pooler.requires_grad_(False).eval()
    if quantization != "none":
        outline_quantized_layers(find_trunk(model)[0], family, quantization)
    found_revision = getattr(config, "_commit_hash", None) or revision
    return Backbone(
        model, family, asked.source, name, found_revision, pooler, asked.is_eager, options, has_weights=False
    )


@cache
def _know_packed_weights() -> None:
    """Tells torch the shape of a weight that is laid out for its products, which it does not know of itself."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return

    @torch.library.register_fake("mkldnn::_reorder_linear_weight")  # type: ignore[untyped-decorator]
    def packed(weight: Tensor, batch_size: int | None = None) -> Tensor:
        return weight.new_empty(weight.shape)
