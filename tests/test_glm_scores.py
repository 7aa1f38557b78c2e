"""Scores of label words and of answers on a GLM, against a plain implementation written from the equations.

It computes a row at a time, without padding, batches, or anything of the model's code; positions, blocks and what sees
what are written out here. Source: Du et al., ACL 2022, arXiv 2103.10360, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ptuning.backbones.language_modeling import load_language_modeling_head
from ptuning.backbones.late_start import can_start_late
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.data.batching import Batch, Example, collate
from ptuning.heads import PooledHead
from ptuning.inference import padding_ids, run_examples
from ptuning.methods import VirtualTokens, stand_in_of
from ptuning.model import PromptedModel
from ptuning.prompts import GivenPrompts, PromptBank
from ptuning.prompts.input_prompts import InputPrompts
from ptuning.tasks import TaskKind
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.tasks.verbalizing import make_verbalizer

NUM_HEADS, WIDTH = 4, 8
Weights = dict[str, Tensor]

SINGLE = Classification(("no", "yes"), "{text} is it? {mask}.", ("No", "Yes"))
SEVERAL = Classification(("no", "yes"), "{text} is it? {mask}.", ("No", "Yes, it is"))
CHOICES = MultipleChoice("{text} {mask}.", ())
ENTITIES = Cloze("{passage} {query}", ())
ROWS: dict[str, list[dict[str, Any]]] = {
    "single": [{"text": "the lamp", "label": "yes"}, {"text": "a red and blue lamp, it is said", "label": "no"}],
    "several": [{"text": "the red lamp", "label": "yes"}, {"text": "blue", "label": "no"}],
    "choices": [
        {"text": "the lamp is", "choices": ["red", "not the blue one", "a"], "label": 1},
        {"text": "it", "choices": ["fell", "is green"], "label": 0},
    ],
    "entities": [{"passage": "Ann, Bo", "query": "is @placeholder late", "entities": ["Ann", "Bo"], "answers": ["Bo"]}],
}
KINDS: dict[str, TaskKind] = {"single": SINGLE, "several": SEVERAL, "choices": CHOICES, "entities": ENTITIES}


@pytest.fixture
def backbone(glm_with_words: Path) -> Backbone:
    return load_backbone(glm_with_words, dtype=torch.float64)


def _norm(values: Tensor, weights: Weights, name: str) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(values: Tensor, weights: Weights, name: str) -> Tensor:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _hidden_states(
    weights: Weights,
    embedded: Tensor,
    sep: int,
    positions: Sequence[int],
    blocks: Sequence[int],
    prompts: Tensor | None,
) -> Tensor:
    """(N, C) of one row; prompts: (L, 2, H, P, D)."""
    size = len(embedded)
    hidden = embedded + weights["transformer.position_embeddings.weight"][list(positions)]
    hidden = hidden + weights["transformer.block_position_embeddings.weight"][list(blocks)]
    visible = torch.tensor([[j < sep or j <= i for j in range(size)] for i in range(size)])
    for layer in range(2):
        name = f"transformer.layers.{layer}"
        fused = _linear(_norm(hidden, weights, f"{name}.input_layernorm"), weights, f"{name}.attention.query_key_value")
        joined = []
        for head in range(NUM_HEADS):
            own = slice(head * WIDTH, (head + 1) * WIDTH)
            query, key, value = (part[:, own] for part in fused.split(NUM_HEADS * WIDTH, dim=1))
            seen = visible
            if prompts is not None:
                key, value = (torch.cat([prompts[layer, i, head], one]) for i, one in enumerate((key, value)))
                seen = torch.cat([torch.ones(size, prompts.shape[3], dtype=torch.bool), visible], dim=1)
            scores = (query @ key.T / WIDTH**0.5).masked_fill(~seen, float("-inf")).exp()
            joined.append(scores / scores.sum(1, keepdim=True) @ value)
        hidden = hidden + _linear(torch.cat(joined, dim=1), weights, f"{name}.attention.dense")
        inner = _linear(
            _norm(hidden, weights, f"{name}.post_attention_layernorm"), weights, f"{name}.mlp.dense_h_to_4h"
        )
        inner = 0.5 * inner * (1 + torch.tanh(0.7978845608028654 * (inner + 0.044715 * inner**3)))
        hidden = hidden + _linear(inner, weights, f"{name}.mlp.dense_4h_to_h")
    return _norm(hidden, weights, "transformer.final_layernorm")


def _log_probabilities(hidden: Tensor, weights: Weights) -> Tensor:
    scores = hidden @ weights["word_embeddings.weight"].T
    return scores - scores.exp().sum(-1, keepdim=True).log()


def _score(
    backbone: Backbone,
    ids: list[int],
    prompts: Tensor | None,
    words: list[list[int]] | None,
    front: Tensor | None = None,
) -> Tensor:
    """What the original computes for one sequence: of single words each a score, else that of the answer."""
    weights: Weights = dict(backbone.model.state_dict())
    tokenizer = backbone.tokenizer
    start, end, mask = tokenizer.convert_tokens_to_ids(["<|startofpiece|>", "<|endofpiece|>", "[MASK]"])
    before = 0 if front is None else len(front)
    sep, blank = ids.index(start) + before, ids.index(mask) + before
    length = len(ids) - ids.index(start)
    embedded = weights["word_embeddings.weight"][ids]
    if front is not None:
        embedded = torch.cat([front, embedded])
    positions = [*range(sep), *[blank] * length]
    blocks = [*[0] * sep, *range(1, length + 1)]
    hidden = _hidden_states(weights, embedded, sep, positions, blocks, prompts)
    if words is not None:
        scores = weights["word_embeddings.weight"][[own[0] for own in words]] @ hidden[sep]
        return scores
    targets = [*ids[ids.index(start) + 1 :], end]
    each = _log_probabilities(hidden[sep:], weights)
    return torch.stack([each[place, target] for place, target in enumerate(targets)]).sum()


def _prompts(seed: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, NUM_HEADS, length, WIDTH, generator=generator, dtype=torch.float64)


def _model(backbone: Backbone, kinds: Sequence[TaskKind], prompts: Sequence[Tensor], **more: Any) -> PromptedModel:
    bank = PromptBank(2)
    for one in prompts:
        bank.add(GivenPrompts(one))
    score = load_language_modeling_head(backbone)
    heads = [make_verbalizer(kind, backbone.tokenizer, score) for kind in kinds]
    return PromptedModel(backbone, bank, heads, **more).eval()


def _examples(backbone: Backbone, name: str, *, training: bool = False) -> list[Example]:
    return KINDS[name].encode(ROWS[name], backbone.tokenizer, 120, training=training)


def _batch(backbone: Backbone, examples: Sequence[Example]) -> Batch:
    return collate(examples, *padding_ids(backbone.tokenizer))


def _words(backbone: Backbone, name: str) -> list[list[int]] | None:
    return SINGLE.word_ids(backbone.tokenizer) if name == "single" else None


@pytest.mark.parametrize("name", list(KINDS))
def test_scores_of_padded_batches_are_those_of_the_equations(name: str, backbone: Backbone) -> None:
    prompts = _prompts(0, 3)
    model, batch = _model(backbone, [KINDS[name]], [prompts]), _batch(backbone, _examples(backbone, name))
    assert (batch.attention_mask == 0).any(), "some are padded"
    with torch.no_grad():
        (output,) = model(batch.input_ids, batch.attention_mask)
    sequences = [ids for example in batch.examples for ids in example.sequences]
    assert len(sequences) == len(batch.input_ids)
    words = _words(backbone, name)
    expected = torch.stack([_score(backbone, ids, prompts, words) for ids in sequences])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(KINDS))
def test_gradients_are_those_of_the_equations(name: str, backbone: Backbone) -> None:
    given, own = (_prompts(1, 2).requires_grad_() for _ in range(2))
    kind = KINDS[name]
    batch = _batch(backbone, _examples(backbone, name, training=True))
    (output,) = _model(backbone, [kind], [given])(batch.input_ids, batch.attention_mask)
    kind.loss(output.logits, batch).backward()
    losses = []
    for example in batch.examples:
        scores = [_score(backbone, ids, own, _words(backbone, name)) for ids in example.sequences]
        by_answer = scores[0] if name == "single" else torch.stack(scores)
        assert isinstance(example.label, int)
        losses.append(by_answer.logsumexp(0) - by_answer[example.label])
    torch.stack(losses).mean().backward()
    assert given.grad is not None and own.grad is not None and own.grad.abs().max() > 1e-3
    torch.testing.assert_close(given.grad, own.grad, rtol=0, atol=1e-10)


def test_rows_of_several_tasks_share_a_batch(backbone: Backbone) -> None:
    plain = Classification(("a", "b"))
    # A row of a linear head that writes a special token out: it is no piece of its own, alone or beside others.
    rows = [{"text": "the <|startofpiece|> lamp is red"}]
    linear = PooledHead(32, 2, pooling="mean", generator=torch.Generator().manual_seed(3)).double()
    names = ["single", "choices", "entities"]
    examples = [example for name in names for example in _examples(backbone, name)]
    examples += plain.encode(rows, backbone.tokenizer, 120, training=False)
    counts = [len(_examples(backbone, name)) for name in names]
    entries = [entry for entry, count in enumerate([*counts, 1]) for _ in range(count)]
    prompts = [_prompts(seed, length) for seed, length in enumerate((1, 4, 0, 2))]
    bank = PromptBank(2)
    for one in prompts:
        bank.add(GivenPrompts(one))
    score = load_language_modeling_head(backbone)
    heads = [*(make_verbalizer(KINDS[name], backbone.tokenizer, score) for name in names), linear]
    model = PromptedModel(backbone, bank, heads)
    mixed = run_examples(model, examples, backbone.tokenizer, entries=entries, heads=entries)
    model.detach()
    for example, entry, found in zip(examples, entries, mixed, strict=True):
        if entry == 3:
            alone = PromptBank(2)
            alone.add(GivenPrompts(prompts[3]))
            single = PromptedModel(backbone, alone, [linear])
            (expected,) = run_examples(single, [example], backbone.tokenizer)
            single.detach()
        else:
            words = _words(backbone, names[entry])
            scores = [_score(backbone, ids, prompts[entry], words) for ids in example.sequences]
            expected = scores[0] if words is not None else torch.stack(scores)
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["front", "pattern"])
def test_virtual_tokens_of_the_input_are_context(place: Any, backbone: Backbone) -> None:
    values = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(5)).double()  # they are kept in float32
    pattern = "{prompt:2}{text} {mask}." if place == "pattern" else "{text} {mask}."
    kind = Classification(("no", "yes"), pattern, ("No", "Yes, it is"))
    examples = kind.encode(ROWS["single"], backbone.tokenizer, 120, training=False)
    adaptation = VirtualTokens(
        InputPrompts(values), backbone.family, place=place, stand_in=stand_in_of(backbone.tokenizer)
    ).double()
    empty = torch.zeros(2, 2, NUM_HEADS, 0, WIDTH, dtype=torch.float64)
    model = _model(backbone, [kind], [empty], adaptation=adaptation)
    batch = _batch(backbone, examples)
    with torch.no_grad():
        (output,) = model(batch.input_ids, batch.attention_mask)
    weights = backbone.model.state_dict()["word_embeddings.weight"]
    expected = []
    for ids in (ids for example in examples for ids in example.sequences):
        if place == "front":
            expected.append(_score(backbone, ids, None, None, front=values[0]))
        else:  # behind [CLS], whose place in front is taken by its own embedding
            front = torch.cat([weights[ids[:1]], values[0]])
            expected.append(_score(backbone, [one for one in ids[1:] if one >= 0], None, None, front=front))
    torch.testing.assert_close(output.logits, torch.stack(expected), rtol=0, atol=1e-10)


def test_layers_below_the_prompts_can_be_left_out(backbone: Backbone) -> None:
    """Trunk reuse: what the lower layers give for a row is told by its tokens, pieces and all."""
    batch = _batch(backbone, _examples(backbone, "choices"))
    bank = PromptBank(2)
    bank.add(GivenPrompts(_prompts(2, 3)[:1]), layers=[1])
    head = make_verbalizer(CHOICES, backbone.tokenizer, load_language_modeling_head(backbone))
    model = PromptedModel(backbone, bank, [head]).eval()
    assert can_start_late(model.attached.trunk, backbone.family) and model.lowest_prompted_layer == 1
    with torch.no_grad():
        (expected,) = model(batch.input_ids, batch.attention_mask)
        model.start_late()
        states = model.lower_layers(batch.input_ids, batch.attention_mask)
        (found,) = model(batch.input_ids, batch.attention_mask, lower_states=states)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)


def test_a_length_penalty_is_on_the_number_of_scored_tokens(backbone: Backbone) -> None:
    prompts = _prompts(0, 3)
    batch = _batch(backbone, _examples(backbone, "choices"))
    bank = PromptBank(2)
    bank.add(GivenPrompts(prompts))
    score = load_language_modeling_head(backbone)
    head = make_verbalizer(CHOICES, backbone.tokenizer, score, length_penalty=0.5)
    with torch.no_grad():
        (output,) = PromptedModel(backbone, bank, [head]).eval()(batch.input_ids, batch.attention_mask)
    start = backbone.tokenizer.convert_tokens_to_ids("<|startofpiece|>")
    expected = [
        _score(backbone, ids, prompts, None) / (len(ids) - ids.index(start)) ** 0.5
        for example in batch.examples
        for ids in example.sequences
    ]
    torch.testing.assert_close(output.logits, torch.stack(expected), rtol=0, atol=1e-10)


def test_scores_of_some_tokens_are_those_of_all(backbone: Backbone) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        backbone.model.to(dtype)
        head = load_language_modeling_head(backbone)
        hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        ids = torch.tensor([5, 0, 300])
        found = head.of_tokens(hidden, ids)
        torch.testing.assert_close(found, head(hidden)[:, ids], rtol=1e-6, atol=1e-6)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
