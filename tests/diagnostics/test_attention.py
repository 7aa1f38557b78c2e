from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.data.batching import Example
from ptuning.diagnostics.attention import watch_prompts
from ptuning.prompts import GivenPrompts, PromptBank
from ptuning.prompts.norms import mean_norms
from ptuning.tasks.classification import Classification

SENTENCES = [[2, 9, 11, 14, 3], [2, 8, 3], [2, 20, 21, 22, 23, 24, 25, 26, 3]]


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone, device="cpu", dtype=torch.float32)


def _examples(sentences: list[list[int]]) -> list[Example]:
    return [
        Example((ids,), ([0] * len(ids),), label, row)
        for row, (ids, label) in enumerate(zip(sentences, (1, None, 0), strict=False))
    ]


def _prompts(length: int = 4, layers: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(layers, 2, 4, length, 8, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_real_queries_of_eager_attention(backbone: Backbone, tiny_backbone: Path) -> None:
    attached = ptuning.attach(backbone.model, _prompts())
    together = watch_prompts(attached, backbone, 0, _examples(SENTENCES))
    assert together.num_tokens == 17 and together.attention.shape == (2, 4)
    eager = load_backbone(tiny_backbone, device="cpu", dtype=torch.float32, attention="eager")
    ptuning.attach(eager.model, _prompts())
    totals = torch.zeros(2, 4)
    with torch.no_grad():
        for ids in SENTENCES:  # alone, so that there is no padding
            tokens = torch.tensor([ids])
            given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": tokens * 0}
            weights = torch.stack(eager.model(**given, output_attentions=True).attentions)  # (L, 1, H, Q, P + K)
            totals += weights[:, 0, :, :, :4].sum((2, 3))
    torch.testing.assert_close(together.attention.float(), totals / 17, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [9, 18, 4096])
def test_batches_and_padding_change_nothing(batch_tokens: int, backbone: Backbone) -> None:
    attached = ptuning.attach(backbone.model, _prompts())
    alone = [watch_prompts(attached, backbone, 0, _examples([ids])) for ids in SENTENCES]
    found = watch_prompts(attached, backbone, 0, _examples(SENTENCES), batch_tokens=batch_tokens)
    for name in ("attention", "real_norms"):
        expected = sum(getattr(one, name) * one.num_tokens for one in alone) / 17
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-5, atol=1e-6)


def test_entries_are_watched_one_at_a_time(backbone: Backbone) -> None:
    bank = PromptBank(2)
    bank.add(GivenPrompts(_prompts()))
    bank.add(GivenPrompts(_prompts(7, layers=1, seed=4)), layers=[1])
    attached = ptuning.attach(backbone.model, bank)
    first, second = (watch_prompts(attached, backbone, entry, _examples(SENTENCES)) for entry in (0, 1))
    assert (first.attention > 0.0).all()
    assert torch.equal(second.attention[0], torch.zeros(4, dtype=torch.float64)), "no prompts at layer 0"
    assert (second.attention[1] > 0.0).all() and not torch.allclose(first.attention[1], second.attention[1], atol=1e-3)


def test_norms_of_real_tokens_are_those_of_their_keys_and_values(backbone: Backbone) -> None:
    tokens = torch.tensor([SENTENCES[0]])
    given = {"attention_mask": torch.ones_like(tokens), "token_type_ids": tokens * 0}
    expected = mean_norms(capture_keys_values(backbone.model, tokens, **given))
    attached = ptuning.attach(backbone.model, torch.zeros(1, 2, 4, 1, 8), layers=[1])
    found = watch_prompts(attached, backbone, 0, _examples(SENTENCES[:1]))
    torch.testing.assert_close(found.real_norms.float(), expected)


def test_every_choice_of_an_example_is_a_sequence(backbone: Backbone) -> None:
    attached = ptuning.attach(backbone.model, _prompts())
    types = tuple([0] * len(ids) for ids in SENTENCES)
    choices = watch_prompts(attached, backbone, 0, [Example(tuple(SENTENCES), types, 1, 0)])
    rows = watch_prompts(attached, backbone, 0, _examples(SENTENCES))
    assert choices.num_tokens == 17
    torch.testing.assert_close(choices.attention, rows.attention)


def test_blanks_that_are_filled_behind_the_text_are_watched_so(glm_with_words: Path) -> None:
    backbone = load_backbone(glm_with_words, device="cpu", dtype=torch.float32)
    pieces = backbone.pieces
    assert pieces is not None
    kind = Classification(("no", "yes"), "{text} so {mask}.", ("No, it is", "Yes, it is"))
    examples = kind.encode([{"text": "the lamp is red"}], backbone.tokenizer, 64, training=False)
    (sequences,) = (example.sequences for example in examples)
    sizes = backbone.description
    attached = ptuning.attach(backbone.model, torch.zeros(1, 2, sizes.num_heads, 1, sizes.head_dim), layers=[1])
    found = watch_prompts(attached, backbone, 0, examples, pieces=pieces)
    plain = watch_prompts(attached, backbone, 0, examples)
    attached.detach()
    assert found.num_tokens == sum(map(len, sequences)) == plain.num_tokens
    alone = [torch.tensor([ids]) for ids in sequences]
    captured = [capture_keys_values(backbone.model, ids, torch.ones_like(ids), **pieces.inputs(ids)) for ids in alone]
    torch.testing.assert_close(found.real_norms.float(), mean_norms(torch.cat(captured, dim=3)))
    assert not torch.allclose(plain.real_norms, found.real_norms, rtol=1e-3)


def test_nothing_of_it_stays_on_the_backbone(backbone: Backbone, tiny_run: Callable[..., Any]) -> None:
    attached = ptuning.attach(backbone.model, _prompts())
    watch_prompts(attached, backbone, 0, _examples(SENTENCES))
    attached.detach()
    assert not backbone.model._forward_hooks and backbone.model.config._attn_implementation == "sdpa"
