from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.backbones.capture import capture_keys_values
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.forward import PromptedForward

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]
RELATIVE = ["deberta", "deberta-v2", "mpnet", "mt5", "t5", "umt5"]

# A causal token does not see all of its text, but all virtual tokens.
CAUSAL = {name for name, family in FAMILIES.items() if family.is_decoder}
SEE_THEMSELVES = [
    *sorted(set(FAMILIES) - set(RELATIVE) - CAUSAL),
    "albert-groups",
    "deberta-absolute",
    "gemma2-bidirectional",
    "llama-bidirectional",
    "mistral-bidirectional",
]


@pytest.mark.parametrize("name", SEE_THEMSELVES)
def test_a_text_that_sees_itself_twice_is_as_it_was(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    """With each key and value there twice, every weighted mean stays what it was: so these are the ones it saw."""
    model = tiny_model(name, dtype=torch.float64)
    batch = ragged_batch(model.config, (5,))  # shorter than ModernBERT's window
    keys_values = capture_keys_values(model, **batch)
    before = model(**batch)[0]
    attached = ptuning.attach(model, keys_values)
    torch.testing.assert_close(model(**batch)[0], before, rtol=0, atol=1e-5)
    attached.detach()
    # other numbers of the same size do change it
    ptuning.attach(model, keys_values.flip(1))
    assert not torch.allclose(model(**batch)[0], before, atol=1e-2)


@pytest.mark.parametrize("name", RELATIVE)
def test_equals_what_the_projections_give(name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model(name)
    batch = ragged_batch(model.config, (5,))
    outputs: dict[str, list[Tensor]] = {"key": [], "value": []}
    trunk, family = find_trunk(model)
    names = {"deberta-v2": ("key_proj", "value_proj")}.get(name, ("k", "v"))
    path = family.attention_path.replace("*", "{}", 1)
    for layer in range(3):
        attention: Any = trunk.get_submodule(path.format(layer))
        if name == "deberta":

            def by_head(module: Any, args: Any, output: Tensor, attention: Any = attention) -> None:
                _, key, value = output.unflatten(-1, (4, 3, 8)).unbind(3)  # each (B, N, H, D)
                outputs["key"].append(key.flatten(2))
                outputs["value"].append(value.flatten(2) + attention.v_bias)

            attention.in_proj.register_forward_hook(by_head)
            continue
        for kind, child in zip(("key", "value"), names, strict=True):

            def keep(module: Any, args: Any, output: Tensor, kept: list[Tensor] = outputs[kind]) -> None:
                if output.shape[1] == 5 and output.shape[0] == 1:
                    kept.append(output)

            getattr(attention, child).register_forward_hook(keep)
    keys_values = capture_keys_values(model, **batch)
    assert keys_values.shape == (3, 2, 4, 5, 8) and not keys_values.requires_grad
    for axis, kind in enumerate(("key", "value")):
        assert len(outputs[kind]) == 3
        for layer, output in enumerate(outputs[kind]):
            expected = output[0].unflatten(-1, (4, 8)).transpose(0, 1)  # (H, N, D)
            torch.testing.assert_close(keys_values[layer, axis], expected)


def test_real_tokens_of_all_rows_come_one_after_the_other(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert").train()
    batch = ragged_batch(model.config, (4, 6, 2))
    together = capture_keys_values(model, **batch)
    assert together.shape == (3, 2, 4, 12, 8) and together.dtype == torch.float32
    alone = [
        capture_keys_values(model, **{key: tensor[i : i + 1, :length] for key, tensor in batch.items()})
        for i, length in enumerate((4, 6, 2))
    ]
    torch.testing.assert_close(together, torch.cat(alone, 3))
    assert model.training, "modes are put back"
    assert not model._forward_hooks and model.config._attn_implementation == "sdpa"


def test_grouped_query_heads_and_bf16(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("eurobert", dtype=torch.bfloat16)
    captured = capture_keys_values(model, **ragged_batch(model.config, (3,)))
    assert captured.shape == (3, 2, 2, 3, 8) and captured.dtype == torch.float32


@pytest.mark.parametrize("name", ["bert", "albert", "deberta", "t5"])
def test_wanted_layers_and_tokens_are_those_of_the_whole(
    name: str, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    batch = ragged_batch(model.config, (4, 6, 2))
    whole = capture_keys_values(model, **batch)
    tokens = torch.tensor([11, 4, 0, 4, 9])
    picked = capture_keys_values(model, **batch, layers=[2, 0], tokens=tokens)
    assert torch.equal(picked, whole[[2, 0]].index_select(3, tokens))


def test_only_what_is_wanted_is_kept_while_the_backbone_runs(
    tiny_model: TinyModel, ragged_batch: RaggedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("bert")
    kept: list[weakref.ref[Tensor]] = []
    insert = PromptedForward.insert

    def spy(forward: PromptedForward, module: torch.nn.Module, key: Tensor, value: Tensor) -> Any:
        kept.append(weakref.ref(key))
        return insert(forward, module, key, value)

    monkeypatch.setattr(PromptedForward, "insert", spy)
    alive: list[int] = []
    model.encoder.layer[2].register_forward_hook(lambda *_: alive.append(sum(r() is not None for r in kept)))
    capture_keys_values(model, **ragged_batch(model.config, (6, 6)), tokens=torch.tensor([1, 2]))
    assert len(kept) == 3 and alive == [0]


def test_token_types_count(tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, (4, 4))
    types = torch.tensor([[0, 0, 1, 1]] * 2)
    plain, typed = capture_keys_values(model, **batch), capture_keys_values(model, **batch, token_type_ids=types)
    assert torch.equal(plain[0, :, :, :2], typed[0, :, :, :2]) and not torch.equal(plain, typed)
