"""What the layers do with prompts on real rows: the attention on virtual tokens, and how large real tokens' keys are.

The backbone runs as it does when it predicts, but whole: where a head reads the first token alone, predictions leave
out the other queries of the last layer, and here they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptuning.attachment import Attached
from ptuning.backbones.loading import Backbone
from ptuning.backbones.pieces import PieceTokens
from ptuning.data.batching import Example, collate, evaluation_batches
from ptuning.inference import TOKENS_AT_ONCE, padding_ids


@dataclass(frozen=True)
class Watched:
    """What was seen of one task's prompts, over all real tokens of all its sequences.

    Attributes:
        attention: (num_layers, num_heads) float64, the mean share of a query's attention on virtual tokens; zero at
            layers without.
        real_norms: (num_layers, 2) float64, the mean norm of real tokens' keys and values, as attention sees them
            beside the prompts.
        num_tokens: real tokens that were counted.
    """

    attention: Tensor
    real_norms: Tensor
    num_tokens: int


def watch_prompts(
    attached: Attached,
    backbone: Backbone,
    entry: int,
    examples: Sequence[Example],
    *,
    batch_tokens: int = TOKENS_AT_ONCE,
    pieces: PieceTokens | None = None,
) -> Watched:
    """Runs examples with the prompts of one entry and looks at every layer.

    Args:
        attached: prompts on the backbone, in eval mode.
        backbone: of `attached`.
        entry: of its bank.
        examples: tokenized rows.
        batch_tokens: positions a batch at most.
        pieces: by which the head of the task asks the backbone, where it does.
    """
    num_layers, num_heads = backbone.description.num_layers, backbone.description.num_heads
    attention = torch.zeros(num_layers, num_heads, dtype=torch.float64)
    norms = torch.zeros(num_layers, 2, dtype=torch.float64)
    num_tokens = 0
    device = next(backbone.model.parameters()).device
    is_real = torch.empty(0)

    def add_attention(layer: int, share: Tensor) -> None:
        attention[layer] += _sums(share.masked_fill(~is_real[:, None], 0.0))

    def add_norms(layer: int, key: Tensor, value: Tensor) -> None:
        for axis, states in enumerate((key, value)):
            lengths = torch.linalg.vector_norm(states.float(), dim=-1).mean(1)  # (B, N)
            norms[layer, axis] += lengths[is_real].sum(dtype=torch.float64).cpu()

    sizes = [len(example.sequences) for example in examples]
    batches = evaluation_batches([e.length for e in examples], batch_tokens=batch_tokens, num_sequences=sizes)
    with torch.inference_mode(), attached.watched(attention=add_attention, keys_values=add_norms):
        for indices in batches:
            members = [replace(examples[index], label=None) for index in indices]
            batch = collate(members, *padding_ids(backbone.tokenizer)).to(device)
            is_real = batch.attention_mask.bool()  # (B, N)
            num_tokens += int(is_real.sum())
            more = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
            if pieces is not None:
                more |= pieces.inputs(batch.input_ids)
            with attached.rows([entry] * len(batch.input_ids)):
                backbone.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **more)
    return Watched(attention / num_tokens, norms / num_tokens, num_tokens)


def _sums(share: Tensor) -> Tensor:
    """(batch_size, num_heads, num_queries) -> (num_heads,) on the CPU."""
    return share.sum((0, 2), dtype=torch.float64).cpu()
