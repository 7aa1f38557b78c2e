"""A backbone of shapes alone: what its config says, without weights, for counting what it would need.

Made where tensors have no memory (`planning.recording.ShapesAlone`), it has the modules, parameters and buffers that
`load_backbone` would give, of the same types.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForTextEncoding
from transformers.initialization import no_init_weights

from ptuning.backbones import embedded
from ptuning.backbones.direction import Direction, switch_config, switch_modules
from ptuning.backbones.families import attention_modules, find_family, find_trunk
from ptuning.backbones.loading import Attention, Backbone, _attention_for, _load_config, _take_pooler
from ptuning.errors import BackboneError


def outline_backbone(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "auto",
    attention_direction: Direction | None = None,
) -> Backbone:
    """Makes the outline of a backbone. Of what it was saved with only `config.json` is read.

    A checkpoint may lack the pooler that its family has; here it is there.

    Args:
        name: a Hugging Face name, a local directory in hub layout, or `minilm`.
        revision: commit, branch or tag on the hub.
        dtype: storage of its weights.
        attention: base implementation.
        attention_direction: of a decoder.

    Raises:
        BackboneError: not found, of an unsupported family, or its config is not one of a whole model.
        MissingDependencyError: `minilm` without its package.
    """
    _know_packed_weights()
    name = str(name)
    source = str(embedded.minilm_directory()) if name == embedded.NAME else name
    options = {"revision": revision, "trust_remote_code": False}
    config = _load_config(name, source, options)
    family = find_family(config)
    switch_config(family, config, attention_direction)
    attention = _attention_for(family, config, attention)
    if family.is_decoder:
        config.use_cache = False
    if family.is_encoder_of_seq2seq:
        config.is_encoder_decoder = False
    base = attention if family.native_forward is None else "eager"
    loader: Any = AutoModelForTextEncoding if family.is_encoder_of_seq2seq else AutoModel
    try:
        with no_init_weights():
            model = loader.from_config(config, dtype=dtype, attn_implementation=base)
    except (ValueError, ImportError, TypeError) as error:
        raise BackboneError(
            f"the config.json of {name} makes no {family.model_type}: {error}. Check that it is the checkpoint's own."
        ) from error
    switch_modules(family, config, attention_modules(find_trunk(model)[0], family))
    pooler = _take_pooler(model)
    model.requires_grad_(False).eval()
    if pooler is not None:
        pooler.requires_grad_(False).eval()
    found_revision = getattr(config, "_commit_hash", None) or revision
    return Backbone(
        model, family, source, name, found_revision, pooler, attention == "eager", options, has_weights=False
    )


@cache
def _know_packed_weights() -> None:
    """Tells torch the shape of a weight that is laid out for its products, which it does not know of itself."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return

    @torch.library.register_fake("mkldnn::_reorder_linear_weight")  # type: ignore[untyped-decorator]
    def packed(weight: Tensor, batch_size: int | None = None) -> Tensor:
        return weight.new_empty(weight.shape)
