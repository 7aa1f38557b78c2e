from __future__ import annotations

import pytest
import torch
from torch import nn

from ptuning.backbones.dropout import CheapDropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_elements_are_dropped_as_often_as_asked_and_the_mean_stays(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 1_000_003  # no multiple of four
    dropped = dropout(torch.ones(count, dtype=dtype), probability)
    assert dropped.dtype == dtype and dropped.shape == (count,)
    kept = dropped[dropped != 0]
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(1 - len(kept) / count - probability) < 5 * deviation
    assert torch.allclose(kept.double(), torch.tensor(1 / (1 - probability), dtype=torch.float64), rtol=4e-3)
    if dtype == torch.float64:
        assert abs(float(dropped.mean()) - 1) < 5 * deviation / (1 - probability)


def test_every_one_of_four_neighbours_is_dropped_as_often_and_by_itself() -> None:
    torch.manual_seed(0)
    is_dropped = (dropout(torch.ones(400_000), 0.25) == 0).float().view(-1, 4)
    assert ((is_dropped.mean(0) - 0.25).abs() < 0.007).all()
    correlation = torch.corrcoef(is_dropped.T) - torch.eye(4)
    assert (correlation.abs() < 0.02).all()


def test_a_seed_decides_and_each_call_draws_anew() -> None:
    values = torch.ones(7, 11)
    torch.manual_seed(3)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(values, 0.5), first)
    assert not torch.equal(first, second)


def test_gradients_pass_where_values_do() -> None:
    values = torch.randn(50, 3, requires_grad=True)
    dropped = dropout(values, 0.5)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, torch.where(dropped != 0, 2.0, 0.0))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_or_everything(probability: float, expected: float) -> None:
    assert torch.equal(dropout(torch.ones(9), probability), torch.full((9,), expected))


def test_a_probability_that_rounds_to_one_is_no_division_by_zero() -> None:
    assert torch.isfinite(dropout(torch.ones(999), 0.999999)).all()


def test_modules_draw_that_way_in_training_until_it_is_removed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    values = torch.randn(64, 4)
    hidden = model[0](values)
    cheap = CheapDropout(model)
    torch.manual_seed(1)
    trained = model.train()(values)
    torch.manual_seed(1)
    assert torch.equal(trained, dropout(hidden, 0.5))
    assert torch.equal(model.eval()(values), hidden)
    cheap.remove()
    assert "forward" not in model[1].__dict__
    torch.manual_seed(1)
    trained = model.train()(values)
    torch.manual_seed(1)
    assert torch.equal(trained, nn.functional.dropout(hidden, 0.5))
