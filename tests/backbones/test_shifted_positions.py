"""Shifted positions mean what the original code and PEFT's prefix tuning mean by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

import ptuning
from ptuning.backbones.families import FAMILIES, shifted_positions

PROMPT_LENGTH = 6
LENGTHS = (9, 6, 3)


def _from_embedding(weight: Tensor, num_layers: int, num_heads: int) -> Tensor:
    """The original layout, (P, 2 * layers * hidden) with row 2i the key of layer i, as ours: (L, 2, H, P, D)."""
    rows = weight.view(weight.shape[0], num_layers, 2, num_heads, -1)  # (P, L, 2, H, D)
    return rows.permute(1, 2, 3, 0, 4)


def _loss(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    weights = torch.randn(hidden_states.shape, generator=torch.Generator().manual_seed(1))
    return (hidden_states * weights)[attention_mask.bool()].sum()


# peft asks transformers for these two by their old names
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "electra"])
def test_equals_prefix_tuning_of_peft(
    name: str, attention: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    plain = tiny_model(name, attention=attention)
    batch = ragged_batch(plain.config, LENGTHS)
    config = plain.config
    peft_config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        num_virtual_tokens=PROMPT_LENGTH,
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        token_dim=config.hidden_size,
    )
    wrapped: PeftModel = get_peft_model(tiny_model(name, attention=attention), peft_config)
    wrapped.eval()
    embedding: nn.Parameter = wrapped.prompt_encoder["default"].embedding.weight
    theirs = wrapped(**batch).last_hidden_state
    (their_gradient,) = torch.autograd.grad(_loss(theirs, batch["attention_mask"]), embedding)

    weight = embedding.detach().clone().requires_grad_()
    prompts = _from_embedding(weight, config.num_hidden_layers, config.num_attention_heads)
    ptuning.attach(plain, prompts, positions="shifted")
    ours = plain(**batch).last_hidden_state
    (our_gradient,) = torch.autograd.grad(_loss(ours, batch["attention_mask"]), weight)

    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-5)
    scale = their_gradient.abs().max()
    torch.testing.assert_close(our_gradient / scale, their_gradient / scale, rtol=0, atol=1e-5)


class _Original:
    """The maths of the original code's BERT and RoBERTa with its prefix encoder, written out from their weights."""

    def __init__(self, name: str, model: Any) -> None:
        self.weights = {key: value.detach() for key, value in model.state_dict().items()}
        self.is_roberta = name == "roberta"
        self.num_layers = model.config.num_hidden_layers
        self.num_heads = model.config.num_attention_heads
        self.pad = model.config.pad_token_id

    def linear(self, at: str, states: Tensor) -> Tensor:
        return states @ self.weights[f"{at}.weight"].T + self.weights[f"{at}.bias"]

    def norm(self, at: str, states: Tensor) -> Tensor:
        eps = 1e-12
        mean, variance = states.mean(-1, keepdim=True), states.var(-1, unbiased=False, keepdim=True)
        weight, bias = self.weights[f"{at}.LayerNorm.weight"], self.weights[f"{at}.LayerNorm.bias"]
        return (states - mean) / torch.sqrt(variance + eps) * weight + bias

    def heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)

    def positions(self, input_ids: Tensor, prompt_length: int) -> Tensor:
        if not self.is_roberta:
            return torch.arange(prompt_length, prompt_length + input_ids.shape[1]).expand_as(input_ids)
        real = input_ids.ne(self.pad).int()
        return ((real.cumsum(1) + prompt_length) * real).long() + self.pad

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, prefix: Tensor) -> Tensor:
        """prefix: (P, 2 * layers * hidden), the weight of the original's `Embedding`."""
        batch_size, prompt_length = input_ids.shape[0], prefix.shape[0]
        past = prefix.expand(batch_size, -1, -1)
        past = past.view(batch_size, prompt_length, self.num_layers * 2, self.num_heads, -1)
        past = past.permute(2, 0, 3, 1, 4)  # (2 * layers, B, H, P, D)
        w = self.weights
        states = w["embeddings.word_embeddings.weight"][input_ids] + w["embeddings.token_type_embeddings.weight"][0]
        states = states + w["embeddings.position_embeddings.weight"][self.positions(input_ids, prompt_length)]
        states = self.norm("embeddings", states)
        mask = torch.cat([torch.ones(batch_size, prompt_length), attention_mask.float()], 1)
        mask = (1.0 - mask)[:, None, None, :] * -10000.0
        for i in range(self.num_layers):
            at = f"encoder.layer.{i}"
            query = self.heads(self.linear(f"{at}.attention.self.query", states))
            key = torch.cat([past[2 * i], self.heads(self.linear(f"{at}.attention.self.key", states))], 2)
            value = torch.cat([past[2 * i + 1], self.heads(self.linear(f"{at}.attention.self.value", states))], 2)
            scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1]) + mask
            context = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).flatten(2)
            states = self.norm(f"{at}.attention.output", self.linear(f"{at}.attention.output.dense", context) + states)
            inner = functional.gelu(self.linear(f"{at}.intermediate.dense", states))
            states = self.norm(f"{at}.output", self.linear(f"{at}.output.dense", inner) + states)
        return states


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_equals_the_original_code(
    name: str, attention: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model(name, attention=attention)
    batch = ragged_batch(model.config, LENGTHS)
    real = batch["attention_mask"].bool()
    size = 2 * model.config.num_hidden_layers * model.config.hidden_size
    weight = torch.randn(PROMPT_LENGTH, size, generator=torch.Generator().manual_seed(2)).requires_grad_()

    original = _Original(name, model)(**batch, prefix=weight)
    (original_gradient,) = torch.autograd.grad(_loss(original, batch["attention_mask"]), weight)

    prompts = _from_embedding(weight, model.config.num_hidden_layers, model.config.num_attention_heads)
    ptuning.attach(model, prompts, positions="shifted")
    ours = model(**batch).last_hidden_state
    (our_gradient,) = torch.autograd.grad(_loss(ours, batch["attention_mask"]), weight)

    torch.testing.assert_close(ours[real], original[real], rtol=0, atol=5e-5)
    scale = original_gradient.abs().max()
    torch.testing.assert_close(our_gradient / scale, original_gradient / scale, rtol=0, atol=5e-5)


def test_each_row_shifts_by_its_own_prompt_length() -> None:
    ids = torch.tensor([[7, 8, 9], [7, 8, 1]])
    shift = torch.tensor([0, 4])

    class Config:
        pad_token_id = 1

    def positions(name: str, **given: Any) -> list[list[int]]:
        inputs = {"input_ids": ids, "position_ids": None, **given}
        return shifted_positions(FAMILIES[name], Config(), shift, batch_size=2, seq_len=3, **inputs).tolist()

    assert positions("bert") == [[0, 1, 2], [4, 5, 6]]
    assert positions("roberta") == [[2, 3, 4], [6, 7, 1]]
    assert positions("roberta", input_ids=None) == [[2, 3, 4], [6, 7, 8]]
    assert positions("bert", position_ids=torch.tensor([[3, 2, 1]])) == [[3, 2, 1], [7, 6, 5]]
    assert positions("roberta", position_ids=torch.tensor([[2, 3, 1]])) == [[2, 3, 1], [6, 7, 1]]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_given_positions_and_embeddings_are_shifted_too(
    name: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model(name)
    ids = ragged_batch(model.config, (5, 5))["input_ids"]
    prompts = torch.randn(3, 2, 4, PROMPT_LENGTH, 8, generator=torch.Generator().manual_seed(2))
    ptuning.attach(model, prompts, positions="shifted")
    expected = model(ids)[0]
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids))[0]
    first = 2 if name == "roberta" else 0
    explicit = model(ids, position_ids=torch.arange(first, first + 5).unsqueeze(0))[0]
    positional = model(ids, torch.ones_like(ids))[0]
    torch.testing.assert_close(embedded, expected)
    torch.testing.assert_close(explicit, expected)
    torch.testing.assert_close(positional, expected)


@pytest.mark.parametrize("name", ["eurobert", "modernbert", "nomic_bert", "t5", "mt5", "umt5"])
def test_rotary_and_relative_families_refuse_shifted_positions_by_name(
    name: str, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(name)
    kv_heads = 2 if name == "eurobert" else 4
    with pytest.raises(ptuning.PtuningError, match=f"`shifted`, but {name} has (rotary|relative) positions"):
        ptuning.attach(model, torch.zeros(3, 2, kv_heads, 2, 8), positions="shifted")


@pytest.mark.parametrize("name", ["deberta", "deberta-v2"])
def test_deberta_without_absolute_positions_takes_shifted_without_effect(
    name: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model(name)
    batch = ragged_batch(model.config, LENGTHS)
    prompts = torch.randn(3, 2, 4, PROMPT_LENGTH, 8, generator=torch.Generator().manual_seed(2))
    outputs = []
    for positions in ("unshifted", "shifted"):
        attached = ptuning.attach(model, prompts, positions=positions)  # type: ignore[arg-type]
        outputs.append(model(**batch)[0])
        attached.detach()
    assert torch.equal(outputs[0], outputs[1])


def test_mpnet_pads_where_the_library_does(
    tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    """MPNet counts positions from padding index 1 whatever its config's pad token is."""
    model = tiny_model("mpnet", pad_token_id=3)
    ids = ragged_batch(model.config, (5, 5))["input_ids"]
    prompts = torch.zeros(3, 2, 4, 1, 8)
    with torch.no_grad():
        with_given = model(ids, position_ids=torch.arange(2, 7).unsqueeze(0) + 1, output_hidden_states=True)
        attached = ptuning.attach(model, prompts, positions="shifted")
        shifted = model(ids, output_hidden_states=True)
        attached.detach()
    assert torch.equal(shifted.hidden_states[0], with_given.hidden_states[0])


@pytest.mark.parametrize(("name", "limit"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("deberta-biased", 40)])
def test_too_many_tokens_for_shifted_positions_is_an_error(
    name: str, limit: int, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model(name)
    attached = ptuning.attach(model, torch.zeros(3, 2, 4, 10, 8), positions="shifted")
    model(**ragged_batch(model.config, (limit - 10,)))
    with pytest.raises(
        ptuning.PtuningError,
        match=f"the batch has {limit - 9} tokens shifted by prompt_length 10, but the backbone has {limit} positions. "
        f"Use at most {limit - 10} tokens, or `positions: unshifted`",
    ):
        model(**ragged_batch(model.config, (limit - 9,)))
    attached.detach()
    with pytest.raises(ptuning.PtuningError, match=f"prompt_length is {limit} .* {limit} positions, so no token would"):
        ptuning.attach(model, torch.zeros(3, 2, 4, limit, 8), positions="shifted")
