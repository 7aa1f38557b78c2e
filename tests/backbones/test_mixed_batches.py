"""In a batch of several tasks each row gets the result that it gets alone, in every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.prompts import GivenPrompts, PromptBank

NAMES = [
    *sorted(FAMILIES),
    "albert-groups",
    "deberta-biased",
    "deberta-v2-conv",
    "gemma2-bidirectional",
    "llama-bidirectional",
    "mistral-bidirectional",
]
FLOAT32_SOFTMAX = (
    "eurobert",
    "modernbert",
    "t5gemma",
    *(name for name, family in FAMILIES.items() if family.is_decoder),
)
ENTRY_OF_ROW = [2, 0, 3, 1, 1, 2]


class _Tasks:
    """Prompts of four tasks: lengths 4, 7, 16 and 0, other layers each, one with shifted positions."""

    def __init__(self, name: str, dtype: torch.dtype, model: Any) -> None:
        trunk, family = find_trunk(model)
        self.description = describe_trunk(trunk, family)
        last = self.description.num_layers - 1
        self.layers: list[list[int]] = [list(range(last + 1)), [0, last], [last], list(range(last + 1))]
        self.positions: list[Any] = ["unshifted"] * 4
        if family.takes_shifted_positions:
            self.positions[1] = "shifted"
        generator = torch.Generator().manual_seed(3)
        self.prompts = [
            torch.randn(
                len(layers), 2, self.description.num_kv_heads, length, self.description.head_dim, generator=generator
            )
            .to(dtype)
            .requires_grad_()
            for layers, length in zip(self.layers, (4, 7, 16, 0), strict=True)
        ]

    def bank(self) -> PromptBank:
        bank = PromptBank(self.description.num_layers)
        for prompts, layers, positions in zip(self.prompts, self.layers, self.positions, strict=True):
            bank.add(GivenPrompts(prompts), layers=layers, positions=positions)
        return bank

    def gradients(self, losses: Sequence[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(sum(losses, torch.zeros(())), self.prompts[:3]))


def _loss(hidden_states: Tensor) -> Tensor:
    weights = torch.randn(hidden_states.shape, generator=torch.Generator().manual_seed(5))
    return (hidden_states * weights).sum()


def _together(model: Any, tasks: _Tasks, batch: dict[str, Tensor], eager: bool) -> tuple[list[Tensor], list[Tensor]]:
    attached = attach_bank_or_prompts(
        model, tasks.bank(), layers="all", positions="unshifted", freeze=True, check=False, eager=eager
    )
    with attached.rows(ENTRY_OF_ROW):
        hidden_states = model(**batch)[0]
    attached.detach()
    rows = [row[mask.bool()] for row, mask in zip(hidden_states, batch["attention_mask"], strict=True)]
    return [row.detach().double() for row in rows], tasks.gradients([_loss(row) for row in rows])


def _alone(model: Any, tasks: _Tasks, batch: dict[str, Tensor], eager: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Each row by itself, without padding and without a bank."""
    rows = []
    for i, entry in enumerate(ENTRY_OF_ROW):
        attached = attach_bank_or_prompts(
            model,
            tasks.prompts[entry],
            layers=tasks.layers[entry],
            positions=tasks.positions[entry],
            freeze=True,
            check=False,
            eager=eager,
        )
        length = int(batch["attention_mask"][i].sum())
        rows.append(model(**{name: tensor[i : i + 1, :length] for name, tensor in batch.items()})[0][0])
        attached.detach()
    return [row.detach().double() for row in rows], tasks.gradients([_loss(row) for row in rows])


def _distance(one: tuple[list[Tensor], list[Tensor]], other: tuple[list[Tensor], list[Tensor]]) -> tuple[float, float]:
    largest = max(float(gradient.abs().max()) for gradient in other[1])
    hidden = max(float((a - b).abs().max()) for a, b in zip(one[0], other[0], strict=True))
    return hidden, max(float((a - b).abs().max()) for a, b in zip(one[1], other[1], strict=True)) / largest


@pytest.mark.parametrize("lengths", [(9, 9, 9, 9, 9, 9), (7, 11, 8, 10, 8, 9)], ids=["full", "padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_mixed_batch_gets_what_it_gets_alone(
    name: str,
    attention: str,
    lengths: tuple[int, ...],
    tiny_model: Callable[..., Any],
    ragged_batch: Callable[..., dict[str, Tensor]],
) -> None:
    eager = attention == "eager"

    def run(way: Callable[..., Any], dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        model = tiny_model(name, attention=attention, dtype=dtype, seed=seed)
        rows, gradients = way(model, _Tasks(name, dtype, model), ragged_batch(model.config, lengths), eager)
        return rows, [gradient.double() for gradient in gradients]

    expected = run(_alone, torch.float64)
    # These compute their eager softmax in float32 whatever the model's dtype, over sums of other lengths here.
    model_type = name.removesuffix("-bidirectional")
    is_eager = eager or (model_type in FAMILIES and FAMILIES[model_type].caps_scores)
    bound = 5e-6 if is_eager and model_type in FLOAT32_SOFTMAX else 1e-6
    assert max(_distance(run(_together, torch.float64), expected)) < bound

    # What float32 itself costs this family, the worse of two models.
    costs = [_distance(run(_alone, torch.float32), expected)]
    costs += [_distance(run(_alone, torch.float32, 1), run(_alone, torch.float64, 1))]
    hidden, gradient = _distance(run(_together, torch.float32), expected)
    assert hidden < min(3 * max(cost[0] for cost in costs), 5e-5)
    assert gradient < min(3 * max(cost[1] for cost in costs), 5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_and_padding_do_not_change_a_row(
    name: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    """Other mates in other tasks, other words behind the padding: the row stays what it was, but for rounding."""
    model = tiny_model(name)
    tasks = _Tasks(name, torch.float32, model)
    attached = attach_bank_or_prompts(
        model, tasks.bank(), layers="all", positions="unshifted", freeze=True, check=False, eager=False
    )
    first = ragged_batch(model.config, (7, 11, 8))
    second = {key: torch.cat([first[key][:1], ragged_batch(model.config, (11, 9), seed=9)[key]]) for key in first}
    with attached.rows([0, 1, 2]), torch.no_grad():
        one = model(**first)[0][0, :7]
    with attached.rows([0, 3, 3]), torch.no_grad():
        other = model(**second)[0][0, :7]
    # what stands behind a row's end is masked, whatever it is (a pad id is a position in the RoBERTa families)
    torch.testing.assert_close(one, other, rtol=0, atol=5e-5)
