"""A plain reference: each family's attention written out, with the prompts put in front by hand.

It shares no code with the package. Layers are known by the order in which attention is called, the mask is made here
from the batch's own mask, the direction of a decoder and the window of local attention, and positions are written out
below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

_REFERENCE_NAME = "plain_reference"
_ABSOLUTE = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "glm2021", "megatron-bert")


@dataclass
class _Running:
    """What the reference attention needs of the forward at hand."""

    prompts: Mapping[int, tuple[Tensor, Tensor]]
    attention_mask: Tensor
    is_causal: bool
    reach: tuple[int, int] | None
    softmax_dtype: torch.dtype | None
    layer: int = 0


_running: list[_Running] = []


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    extra: Tensor | None = None,
    *,
    is_local: bool = False,
    softmax_dtype: torch.dtype | None = None,
    before: Callable[[Tensor], Tensor] = lambda scores: scores,
    after: Callable[[Tensor], Tensor] = lambda weights: weights,
) -> Tensor:
    """One layer's attention, (B, H, N, D) each; `extra` is added to the scores of real tokens. Returns (B, N, H, D)."""
    running = _running[-1]
    batch_size, num_heads, length, _ = query.shape
    repeats = num_heads // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scale
    if extra is not None:
        scores = scores + extra
    visible = running.attention_mask.bool()[:, None, None, :].expand(-1, 1, length, -1)
    at = torch.arange(length)
    ahead = at[None, :] - at[:, None]  # (N, N), key minus query
    if running.is_causal:
        visible = visible & (ahead <= 0)
    if is_local:
        assert running.reach is not None
        left, right = running.reach
        visible = visible & (ahead >= -left) & (ahead <= right)
    if running.layer in running.prompts:
        front_key, front_value = (p.repeat_interleave(repeats, 0) for p in running.prompts[running.layer])  # (H, P, D)
        front = torch.einsum("bhqd,hpd->bhqp", query, front_key.to(query.dtype)) * scale
        scores = torch.cat([front, scores], 3)
        value = torch.cat([front_value.to(value.dtype).expand(batch_size, -1, -1, -1), value], 2)
        visible = torch.cat([torch.ones(batch_size, 1, length, front_key.shape[1], dtype=torch.bool), visible], 3)
    running.layer += 1
    scores = before(scores).masked_fill(~visible, torch.finfo(scores.dtype).min)
    weights = after(scores.softmax(-1, dtype=softmax_dtype or running.softmax_dtype).to(scores.dtype))
    return torch.einsum("bhqk,bhkd->bqhd", weights, value)


def _interface_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_local = sliding_window is not None
    if softcap is None:
        return _attend(query, key, value, scale, position_bias, is_local=is_local), None

    def cap(scores: Tensor) -> Tensor:
        return softcap * torch.tanh(scores / softcap)

    # what caps scores has the library's eager attention, whose softmax is float32 there
    return _attend(query, key, value, scale, is_local=is_local, softmax_dtype=torch.float32, before=cap), None


AttentionInterface.register(_REFERENCE_NAME, _interface_attention)
AttentionMaskInterface.register(_REFERENCE_NAME, sdpa_mask)


def _heads(projected: Tensor, num_heads: int) -> Tensor:
    batch_size, length, width = projected.shape
    return projected.reshape(batch_size, length, num_heads, width // num_heads).permute(0, 2, 1, 3)


def _megatron_forward(self: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    query, key, value = (_heads(p(hidden), self.num_attention_heads) for p in (self.query, self.key, self.value))
    return _attend(query, key, value, query.shape[-1] ** -0.5).flatten(2), None


def _mpnet_forward(self: Any, hidden: Tensor, mask: Any = None, position_bias: Any = None, **kwargs: Any) -> Any:
    query, key, value = (_heads(p(hidden), self.num_attention_heads) for p in (self.q, self.k, self.v))
    return (self.o(_attend(query, key, value, query.shape[-1] ** -0.5, position_bias).flatten(2)),)


def _deberta_forward(
    self: Any,
    hidden: Tensor,
    mask: Any,
    output_attentions: bool = False,
    query_states: Any = None,
    relative_pos: Any = None,
    rel_embeddings: Any = None,
) -> Any:
    num_heads, length = self.num_attention_heads, hidden.shape[1]
    # in_proj holds query, key and value of a head next to each other
    by_head = self.in_proj(hidden).unflatten(-1, (num_heads, 3, -1))  # (B, N, H, 3, D)
    query, key, value = (by_head[:, :, :, i].transpose(1, 2) for i in range(3))
    query = query + self.q_bias.view(num_heads, 1, -1)
    value = value + self.v_bias.view(num_heads, 1, -1)
    scale = (query.shape[-1] * (1 + len(self.pos_att_type))) ** -0.5
    extra = None
    if self.relative_attention and self.pos_att_type:
        at = torch.arange(length)
        reach = self.max_relative_positions
        distance = (at[:, None] - at[None, :]).clamp(-reach, reach - 1) + reach  # (N, N), query minus key
        extra = torch.zeros(())
        if "c2p" in self.pos_att_type:
            position_key = self.pos_proj(rel_embeddings)[distance].unflatten(-1, (num_heads, -1))  # (N, N, H, D)
            extra = extra + torch.einsum("bhqd,qkhd->bhqk", query, position_key) * scale
        if "p2c" in self.pos_att_type:
            position_query = self.pos_q_proj(rel_embeddings)[distance].unflatten(-1, (num_heads, -1))
            extra = extra + torch.einsum("bhkd,qkhd->bhqk", key, position_query) * scale
    if self.head_logits_proj is None:
        return _attend(query, key, value, scale, extra).flatten(2), None

    def mix(projection: Any, scores: Tensor) -> Tensor:
        return torch.einsum("bhqk,gh->bgqk", scores, projection.weight)

    before, after = partial(mix, self.head_logits_proj), partial(mix, self.head_weights_proj)
    return _attend(query, key, value, scale, extra, before=before, after=after).flatten(2), None


def _deberta_v2_forward(
    self: Any,
    hidden: Tensor,
    mask: Any,
    output_attentions: bool = False,
    query_states: Any = None,
    relative_pos: Any = None,
    rel_embeddings: Any = None,
) -> Any:
    num_heads = self.num_attention_heads
    query, key, value = (_heads(p(hidden), num_heads) for p in (self.query_proj, self.key_proj, self.value_proj))
    scale = (query.shape[-1] * (1 + len(self.pos_att_type))) ** -0.5
    extra = None
    if self.relative_attention and self.pos_att_type:
        reach = self.pos_ebd_size
        relative = relative_pos[0]  # (N, N), the bucket of query minus key
        extra = torch.zeros(())
        if "c2p" in self.pos_att_type:
            project = self.key_proj if self.share_att_key else self.pos_key_proj
            index = (relative + reach).clamp(0, 2 * reach - 1)
            position_key = project(rel_embeddings)[index].unflatten(-1, (num_heads, -1))  # (N, N, H, D)
            extra = extra + torch.einsum("bhqd,qkhd->bhqk", query, position_key) * scale
        if "p2c" in self.pos_att_type:
            project = self.query_proj if self.share_att_key else self.pos_query_proj
            index = (reach - relative.T).clamp(0, 2 * reach - 1)
            position_query = project(rel_embeddings)[index].unflatten(-1, (num_heads, -1))
            extra = extra + torch.einsum("bhkd,qkhd->bhqk", key, position_query) * scale
    return _attend(query, key, value, scale, extra).flatten(2), None


_NATIVE = {
    "megatron-bert": ("encoder.layer.{}.attention.self", _megatron_forward),
    "mpnet": ("encoder.layer.{}.attention.attn", _mpnet_forward),
    "deberta": ("encoder.layer.{}.attention.self", _deberta_forward),
    "deberta-v2": ("encoder.layer.{}.attention.self", _deberta_v2_forward),
}


def _positions(model_type: str, attention_mask: Tensor, shift: int, pad: int) -> Tensor:
    """Positions as the original code has them: absolute ones from `shift`, RoBERTa's behind the padding index."""
    length = attention_mask.shape[1]
    if model_type in _ABSOLUTE:
        return torch.arange(shift, shift + length).expand_as(attention_mask)
    real = torch.arange(length) + pad + 1 + shift
    return torch.where(attention_mask.bool(), real, torch.tensor(pad))


_DECODERS = ("gemma", "gemma2", "gemma3_text", "glm", "glm4", "llama", "mistral", "qwen2", "qwen3")


def _sight(config: Any) -> tuple[bool, tuple[int, int] | None]:
    """Whether a model is causal, and how many tokens to the left and right its windows show, the token not counted."""
    if config.model_type == "modernbert":
        return False, (config.local_attention // 2, config.local_attention // 2)
    if config.model_type == "t5gemma":
        return False, (config.encoder.sliding_window, config.encoder.sliding_window)
    if config.model_type not in _DECODERS:
        return False, None
    window = getattr(config, "sliding_window", None) or 0
    if getattr(config, "use_bidirectional_attention", False):
        return False, (window - 1, window - 1)
    is_causal = getattr(config, "is_causal", True)
    return is_causal, (window - 1, 0) if is_causal else (window, window)


def _reference_hidden_states(
    model: Any,
    batch: dict[str, Tensor],
    prompts: Mapping[int, tuple[Tensor, Tensor]],
    *,
    shift: int = 0,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:
    """All hidden states, (num_hidden, B, N, hidden_size). `prompts`: by layer, key and value (H, P, D)."""
    plain = copy.deepcopy(model)
    model_type = plain.config.model_type
    if model_type in _NATIVE:
        path, forward = _NATIVE[model_type]
        for i in range(plain.config.num_hidden_layers):
            attention = plain.get_submodule(path.format(i))
            attention.forward = MethodType(forward, attention)
    else:
        for module in plain.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = _REFERENCE_NAME
    extra = {}
    if shift:
        extra["position_ids"] = _positions(model_type, batch["attention_mask"], shift, plain.config.pad_token_id)
    is_causal, reach = _sight(plain.config)
    running = _Running(prompts, batch["attention_mask"], is_causal, reach, softmax_dtype)
    _running.append(running)
    try:
        hidden_states = plain(**batch, **extra, output_hidden_states=True).hidden_states
    finally:
        _running.pop()
    return torch.stack(hidden_states)


@pytest.fixture(scope="session")
def reference_hidden_states() -> Callable[..., Tensor]:
    """The reference: `reference_hidden_states(model, batch, {layer: (key, value)}, shift=0)`."""
    return _reference_hidden_states
