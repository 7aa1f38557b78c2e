from __future__ import annotations

import pytest
import torch

from ptuning.errors import ConfigError
from ptuning.heads import Pooling, pool

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], [[2.0, 0.0], [4.0, 8.0], [100.0, 100.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [[1.0, 2.0], [2.0, 0.0]]),
        ("pooler", [[1.0, 2.0], [2.0, 0.0]]),
        ("mean", [[3.0, 5.0], [3.0, 4.0]]),
        ("last", [[5.0, 9.0], [4.0, 8.0]]),
    ],
)
@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.float()], ids=["int", "bool", "float"])
def test_values(pooling: Pooling, expected: list[list[float]], mask: torch.Tensor) -> None:
    assert pool(HIDDEN, mask, pooling).tolist() == expected


def test_padding_gets_no_gradient() -> None:
    hidden = HIDDEN.clone().requires_grad_()
    pool(hidden, MASK, "mean").sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[1].tolist() == [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]


def test_other_poolings_are_refused() -> None:
    with pytest.raises(ConfigError, match="pooling must be one of cls, mean, last, pooler, got 'sum'. Set head"):
        pool(HIDDEN, MASK, "sum")  # type: ignore[arg-type]


def test_last_is_the_last_real_token_wherever_padding_stands() -> None:
    hidden_states = torch.arange(24.0).view(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]])
    assert torch.equal(pool(hidden_states, mask, "last"), hidden_states[[0, 1, 2], [1, 3, 2]])
