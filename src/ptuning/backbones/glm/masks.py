"""What sees what in GLM (2021): a context that sees itself whole, and what follows it, which sees what came before."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from ptuning.errors import BackboneError


def make_mask(config: Any, embeddings: Tensor, attention_mask: Tensor | None, context_lengths: Tensor | None) -> Any:
    """Makes the mask that a model's attention implementation takes.

    Key j is visible to query i when it is a real token, and j < context_length or j <= i.

    Args:
        config: of the model; it names the implementation.
        embeddings: (batch_size, seq_len, hidden_size).
        attention_mask: (batch_size, seq_len), 1 for real tokens; None where all are.
        context_lengths: (batch_size,) or (1,), tokens of the context; None where everything is context.

    Returns:
        A boolean or additive mask, (batch_size, 1, seq_len, seq_len), or what else the implementation takes; None where
        every query sees every key.

    Raises:
        BackboneError: a mask or length of another shape; or context lengths with flash attention, which cannot mix.

    Source: THUDM/GLM, `model/modeling_glm.py`.
    """
    batch_size, seq_len = embeddings.shape[:2]
    if attention_mask is not None and tuple(attention_mask.shape) != (batch_size, seq_len):
        raise BackboneError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected (batch_size, seq_len) = "
            f"{(batch_size, seq_len)}: 1 for real tokens. What sees what is said by context_lengths."
        )
    if context_lengths is None:
        return create_bidirectional_mask(config=config, inputs_embeds=embeddings, attention_mask=attention_mask)
    if tuple(context_lengths.shape) not in ((batch_size,), (1,)):
        raise BackboneError(
            f"context_lengths has shape {tuple(context_lengths.shape)}, expected (batch_size,) = {(batch_size,)}. "
            "Give the number of tokens of each row's context."
        )
    if "flash" in str(config._attn_implementation):
        raise BackboneError(
            "flash attention cannot see a context whole and what follows it from left to right. Set training.attention "
            "to sdpa, or load the backbone with load_backbone(..., attention='sdpa')."
        )
    lengths = context_lengths.to(embeddings.device).expand(batch_size)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = (key < lengths[batch]) | (key <= query)
        return seen

    return create_bidirectional_mask(
        config=config, inputs_embeds=embeddings, attention_mask=attention_mask, and_mask_function=visible
    )
