from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ptuning.errors import ConfigError
from ptuning.heads import PooledHead, TokenHead, make_head

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
MASK = torch.tensor([[1, 1], [1, 0]])


def _set(head: PooledHead | TokenHead, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor(weight))
        head.linear.bias.copy_(torch.tensor(bias))


def test_pooled_head_is_a_linear_layer_on_the_pooled_vector() -> None:
    head = PooledHead(2, 2, pooling="mean")
    _set(head, [[1.0, 0.0], [0.0, 2.0]], [0.5, 0.0])
    assert head(HIDDEN, MASK).tolist() == [[2.5, 6.0], [5.5, 12.0]]


def test_choice_head_gives_one_score_a_choice() -> None:
    head = make_head("choice", 2, 1, pooling="cls")
    _set(head, [[1.0, 1.0]], [0.0])
    assert head(HIDDEN, MASK).tolist() == [3.0, 11.0]
    assert make_head("sequence", 2, 1, pooling="cls")(HIDDEN, MASK).shape == (2, 1)


def test_token_head_is_a_linear_layer_on_each_token() -> None:
    head = TokenHead(2, 1)
    _set(head, [[1.0, -1.0]], [0.0])
    assert head(HIDDEN, MASK).tolist() == [[[-1.0], [-1.0]], [[-1.0], [-1.0]]]


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "pooler"])
def test_pooler_is_used_where_asked_for_and_neither_trained_nor_saved(pooling: str) -> None:
    class Pooler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(2, 2)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states[:, 0] * 10.0

    head = PooledHead(2, 1, pooling=pooling, pooler=Pooler())  # type: ignore[arg-type]
    _set(head, [[1.0, 0.0]], [0.0])
    first = {"cls": 1.0, "mean": 2.0, "last": 3.0, "pooler": 10.0}[pooling]
    assert head(HIDDEN, MASK)[0].tolist() == [first]
    assert sorted(head.state_dict()) == ["linear.bias", "linear.weight"]


def test_pooler_is_refused_where_the_checkpoint_has_none() -> None:
    with pytest.raises(ConfigError, match="head.pooling is `pooler`, but .* has no pretrained pooler. Use `cls`"):
        make_head("sequence", 2, 2, pooling="pooler")


def test_start_is_normal_with_std_002_and_biases_0() -> None:
    head = PooledHead(200, 50, pooling="cls", generator=torch.Generator().manual_seed(0))
    assert abs(float(head.linear.weight.detach().std()) - 0.02) < 0.001
    assert not head.linear.bias.any()
    again = PooledHead(200, 50, pooling="cls", generator=torch.Generator().manual_seed(0))
    assert torch.equal(head.linear.weight, again.linear.weight)


@pytest.mark.parametrize(("kind", "rate"), [("sequence", 0.5), ("choice", 0.5), ("token", 0.5), ("span", 0.0)])
def test_dropout_acts_in_training_but_on_spans(kind: str, rate: float) -> None:
    head = make_head(kind, 64, 1, pooling="cls", dropout=0.5)  # type: ignore[arg-type]
    assert head.dropout.p == rate
    hidden = torch.randn(2, 3, 64)
    mask = torch.ones(2, 3, dtype=torch.long)
    assert torch.equal(head.train()(hidden, mask), head(hidden, mask)) is (rate == 0.0)
    assert torch.equal(head.eval()(hidden, mask), head(hidden, mask))


def test_heads_compute_in_fp32_on_a_bf16_backbone() -> None:
    for head in (PooledHead(2, 2, pooling="mean"), TokenHead(2, 2)):
        assert head(HIDDEN.bfloat16(), MASK).dtype == torch.float32
