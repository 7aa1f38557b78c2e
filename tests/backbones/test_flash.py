"""Prompts under flash attention, with a stand-in for its kernel: what the library's own function is given is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations import flash_attention

import ptuning
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]


def _kernel(asked: list[str | None]) -> Callable[..., Tensor]:
    """What flash attention computes, in steps: (batch_size, num_queries, num_heads, head_dim)."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        is_causal: bool,
        softmax_scale: float | None = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        asked.append(attn_implementation)
        assert kwargs["sliding_window"] is None
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        num_queries, num_keys, groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
        scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale
        if attention_mask is not None:
            assert attention_mask.shape == (len(query), num_keys)
            scores = scores.masked_fill(~attention_mask[:, None, None].bool(), -1e30)
        if is_causal:  # the last query sees all keys, as since flash-attn 2.1
            sees = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
            scores = scores.masked_fill(~sees, -1e30)
        return (scores.softmax(-1) @ value.repeat_interleave(groups, 1)).transpose(1, 2)

    return attend


WINDOWED = {"gemma3_text", "mistral", "modernbert", "qwen2"}  # as they are made here


@pytest.mark.parametrize("name", [name for name in FAMILIES if "flash" in FAMILIES[name].attention])
@torch.no_grad()
def test_flash_attention_is_asked_for_by_its_own_name_and_sees_the_prompts(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in WINDOWED:
        pytest.skip("layers with windows are refused under flash attention")
    model = tiny_model(name, dtype=torch.float64)
    numbers = describe_trunk(*find_trunk(model))
    shape = (numbers.num_layers, 2, numbers.num_kv_heads, 5, numbers.head_dim)
    prompts = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    batch = ragged_batch(model.config, (6, 3))
    is_token = batch["attention_mask"].bool()
    attached = ptuning.attach(model, prompts)
    expected = model(**batch).last_hidden_state[is_token]
    attached.detach()

    asked: list[str | None] = []
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", _kernel(asked))
    model.config._attn_implementation = "flash_attention_2"
    assert not torch.allclose(model(**batch).last_hidden_state[is_token], expected, atol=1e-3), "prompts matter"
    ptuning.attach(model, prompts)
    torch.testing.assert_close(model(**batch).last_hidden_state[is_token], expected, rtol=1e-9, atol=1e-9)
    assert set(asked) == {"flash_attention_2"}
