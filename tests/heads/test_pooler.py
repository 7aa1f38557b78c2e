from __future__ import annotations

import pytest
import torch

from ptuning.heads import PooledHead, TokenHead, draw_pooler, has_drawn_pooler, make_head

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
MASK = torch.tensor([[1, 1], [1, 0]])


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_drawn_pooler_is_a_dense_layer_and_tanh_on_the_first_token() -> None:
    pooler = draw_pooler(2, std=0.02, generator=_draw(3))
    expected = torch.tanh(HIDDEN[:, 0] @ pooler.dense.weight.T)
    torch.testing.assert_close(pooler(HIDDEN), expected)


def test_weights_are_normal_with_the_std_asked_for_and_biases_are_0() -> None:
    for std in (0.02, 0.1):
        pooler = draw_pooler(300, std=std, generator=_draw(11))
        assert float(pooler.dense.weight.std()) == pytest.approx(std, rel=0.02)
        assert not pooler.dense.bias.any()


def test_the_generator_decides_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    first = draw_pooler(8, std=0.02, generator=_draw(11))
    torch.manual_seed(1)
    assert torch.equal(first.dense.weight, draw_pooler(8, std=0.02, generator=_draw(11)).dense.weight)
    assert not torch.equal(first.dense.weight, draw_pooler(8, std=0.02, generator=_draw(12)).dense.weight)


def test_a_drawn_pooler_is_saved_with_the_head_and_not_trained() -> None:
    head = PooledHead(2, 3, pooling="pooler", pooler=draw_pooler(2, std=0.02, generator=_draw(0)))
    assert sorted(head.state_dict()) == ["linear.bias", "linear.weight", "pooler.dense.bias", "pooler.dense.weight"]
    assert sorted(n for n, p in head.named_parameters() if p.requires_grad) == ["linear.bias", "linear.weight"]
    hidden = HIDDEN.clone().requires_grad_()
    head(hidden, MASK).sum().backward()
    assert hidden.grad is not None and hidden.grad[:, 0].any(), "gradients pass through it to the prompts"
    assert has_drawn_pooler(head)


def test_a_head_that_pools_otherwise_keeps_no_pooler() -> None:
    pooler = draw_pooler(2, std=0.02, generator=_draw(0))
    assert sorted(PooledHead(2, 3, pooling="mean", pooler=pooler).state_dict()) == ["linear.bias", "linear.weight"]
    token = make_head("token", 2, 3, pooling="pooler", pooler=pooler)
    assert isinstance(token, TokenHead) and not has_drawn_pooler(token)
    assert sorted(token.state_dict()) == ["linear.bias", "linear.weight"]


def test_a_drawn_pooler_computes_in_fp32_on_a_bf16_backbone() -> None:
    pooler = draw_pooler(2, std=1.0, generator=_draw(0))
    head = PooledHead(2, 3, pooling="pooler", pooler=pooler)
    assert pooler(HIDDEN.bfloat16()).dtype == head(HIDDEN.bfloat16(), MASK).dtype == torch.float32
    torch.testing.assert_close(head(HIDDEN.bfloat16(), MASK), head(HIDDEN, MASK))  # small whole numbers fit bf16
