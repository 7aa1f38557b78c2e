"""Every family with prompts attached equals a plain reference, forward and gradient of the prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ptuning
from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.prompts import GivenPrompts, PromptBank

PROMPT_LENGTH = 5
LENGTHS = (11, 8, 7)  # longer than ModernBERT's window and than DeBERTa's short span
NAMES = [
    *sorted(FAMILIES),
    "albert-groups",
    "deberta-absolute",
    "deberta-biased",
    "deberta-c2p",
    "deberta-p2c",
    "deberta-short-span",
    "deberta-talking",
    "deberta-v2-biased",
    "deberta-v2-c2p",
    "deberta-v2-conv",
    "deberta-v2-p2c",
    "gemma2-bidirectional",
    "gemma3_text-bidirectional",
    "gemma3_text-trained-both-ways",
    "glm4-bidirectional",
    "llama-bidirectional",
    "mistral-bidirectional",
    "qwen2-bidirectional",
    "qwen3-wide-heads",
]
SHIFTING = [
    name
    for name in NAMES
    if name.startswith(("albert", "deberta")) or (name in FAMILIES and FAMILIES[name].takes_shifted_positions)
]
# Eager attention of these computes its softmax in float32 whatever the dtype of the model.
FLOAT32_SOFTMAX = ("eurobert", "modernbert", *(name for name, family in FAMILIES.items() if family.is_decoder))
WITHOUT_POSITIONS = [name for name in NAMES if name.startswith("deberta") and name[-6:] not in ("biased", "solute")]
CASES = [(name, layers, "unshifted") for name in NAMES for layers in ("all", "subset")] + [
    (name, "all", "shifted") for name in SHIFTING
]


def _prompts(description: Any, num_layers: int, dtype: torch.dtype) -> Tensor:
    shape = (num_layers, 2, description.num_kv_heads, PROMPT_LENGTH, description.head_dim)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    return start.to(dtype).requires_grad_()


def _weighted_sum(hidden_states: Tensor) -> Tensor:
    weights = torch.randn(hidden_states.shape[1:], generator=torch.Generator().manual_seed(8))
    return (hidden_states[-1] * weights).sum()


def test_the_reference_without_prompts_is_the_library(
    tiny_names: list[str],
    tiny_model: Callable[..., Any],
    ragged_batch: Callable[..., dict[str, Tensor]],
    reference_hidden_states: Callable[..., Tensor],
) -> None:
    assert sorted(tiny_names) == sorted(NAMES)
    for name in NAMES:
        model = tiny_model(name, dtype=torch.float64)
        batch = ragged_batch(model.config, LENGTHS)
        real = batch["attention_mask"].bool()
        stock = torch.stack(model(**batch, output_hidden_states=True).hidden_states)[:, real]
        plain = reference_hidden_states(model, batch, {})[:, real]
        assert (stock - plain).abs().max() < 1e-6, name


class _Runs:
    """Hidden states and prompt gradients of one tiny model, from the reference and from the package."""

    def __init__(self, name: str, layers: str, positions: Any, attention: str, fixtures: Any) -> None:
        self.name, self.layers, self.positions, self.attention = name, layers, positions, attention
        self.tiny_model, self.ragged_batch, self.reference_hidden_states = fixtures

    def reference(self, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
        model, batch, chosen, prompts = self._inputs(dtype, seed)
        by_layer = {layer: (prompts[i, 0], prompts[i, 1]) for i, layer in enumerate(chosen)}
        shift = PROMPT_LENGTH if self.positions == "shifted" and self.name not in WITHOUT_POSITIONS else 0
        is_float32 = self.attention == "eager" and model.config.model_type in FLOAT32_SOFTMAX
        softmax = torch.float32 if is_float32 else None
        hidden_states = self.reference_hidden_states(model, batch, by_layer, shift=shift, softmax_dtype=softmax)
        return _with_gradient(hidden_states, batch, prompts)

    def package(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        model, batch, chosen, prompts = self._inputs(dtype, 0)
        attach_bank_or_prompts(
            model,
            prompts,
            layers=chosen,
            positions=self.positions,
            freeze=True,
            check=False,
            eager=self.attention == "eager",
        )
        hidden_states = torch.stack(model(**batch, output_hidden_states=True).hidden_states)
        return _with_gradient(hidden_states, batch, prompts)

    def _inputs(self, dtype: torch.dtype, seed: int) -> tuple[Any, dict[str, Tensor], list[int], Tensor]:
        model = self.tiny_model(self.name, attention=self.attention, dtype=dtype, seed=seed)
        description = describe_trunk(*find_trunk(model))
        last = description.num_layers - 1
        chosen = list(range(last + 1)) if self.layers == "all" else [0, last]
        return model, self.ragged_batch(model.config, LENGTHS), chosen, _prompts(description, len(chosen), dtype)


def _with_gradient(hidden_states: Tensor, batch: dict[str, Tensor], prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Of real tokens only: what stands at padding is nobody's business."""
    hidden_states = hidden_states[:, batch["attention_mask"].bool()]
    (gradient,) = torch.autograd.grad(_weighted_sum(hidden_states), prompts)
    return hidden_states.detach().double(), gradient.double()


def _distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Largest difference of hidden states, and of gradients relative to the largest entry."""
    hidden = (one[0] - other[0]).abs().max()
    return float(hidden), float((one[1] - other[1]).abs().max() / other[1].abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "layers", "positions"), CASES)
def test_prompts_equal_the_plain_reference(
    name: str,
    layers: str,
    positions: Any,
    attention: str,
    tiny_model: Callable[..., Any],
    ragged_batch: Callable[..., dict[str, Tensor]],
    reference_hidden_states: Callable[..., Tensor],
) -> None:
    runs = _Runs(name, layers, positions, attention, (tiny_model, ragged_batch, reference_hidden_states))
    expected = runs.reference(torch.float64)
    assert all(part.abs().max() > 1e-3 for part in expected[1].unbind(0)), "each layer must matter"

    assert max(_distance(runs.package(torch.float64), expected)) < 1e-6

    # What float32 itself costs this family: the plain reference in float32 against float64, the worst of three models.
    costs = [_distance(runs.reference(torch.float32), expected)]
    costs += [_distance(runs.reference(torch.float32, s), runs.reference(torch.float64, s)) for s in (1, 2)]
    hidden, gradient = _distance(runs.package(torch.float32), expected)
    assert hidden < min(3 * max(cost[0] for cost in costs), 5e-5)
    assert gradient < min(3 * max(cost[1] for cost in costs), 5e-5)


def test_prompts_move_the_hidden_states(
    tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    """The bounds above would be met by anything if prompts hardly mattered: they matter a million times as much."""
    for name in NAMES:
        model: nn.Module = tiny_model(name)
        description = describe_trunk(*find_trunk(model))
        batch = ragged_batch(model.config, LENGTHS)
        before = model(**batch)[0]
        prompts = _prompts(description, description.num_layers, torch.float32)
        attached = attach_bank_or_prompts(
            model, prompts, layers="all", positions="unshifted", freeze=True, check=False, eager=False
        )
        assert (model(**batch)[0] - before).abs().mean() > 0.05, name
        attached.detach()


# the libraries compile masks and kernels in ways that they themselves are about to drop
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention compiles for minutes on a CPU")
@pytest.mark.parametrize("name", ["bert", "eurobert", "modernbert"])
def test_flex_attention_equals_sdpa(
    name: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    wide = {"eurobert": {"head_dim": 16}}.get(name, {"hidden_size": 64})  # flex needs heads of 16
    outputs = []
    for attention in ("sdpa", "flex_attention"):
        model = tiny_model(name, attention=attention, **wide).cuda()
        description = describe_trunk(*find_trunk(model))
        bank = PromptBank(description.num_layers)
        for length in (4, 7):
            shape = (description.num_layers, 2, description.num_kv_heads, length, description.head_dim)
            bank.add(GivenPrompts(torch.randn(shape, generator=torch.Generator().manual_seed(length)).cuda()))
        attached = ptuning.attach(model, bank)
        batch = {key: tensor.cuda() for key, tensor in ragged_batch(model.config, LENGTHS).items()}
        with attached.rows([0, 1, 1]), torch.no_grad():
            outputs.append(model(**batch)[0][batch["attention_mask"].bool()])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-4)
