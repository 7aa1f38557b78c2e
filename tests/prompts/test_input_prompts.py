from __future__ import annotations

from typing import Any

import pytest
import torch

from ptuning.prompts.input_prompts import InputPrompts


def _made(how: Any, seed: int = 3, width: int = 64) -> InputPrompts:
    generator = torch.Generator().manual_seed(seed)
    return InputPrompts(torch.zeros(1, 2, width), reparameterization=how, generator=generator)


@pytest.mark.parametrize("how", ["lstm", "mlp"])
def test_the_network_starts_with_numbers_of_the_generator_alone(how: str) -> None:
    torch.manual_seed(0)
    first = _made(how).state_dict()
    torch.manual_seed(1)
    again, other = _made(how).state_dict(), _made(how, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name != "embeddings"]
    assert len(drawn) == {"lstm": 20, "mlp": 4}[how]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("how", ["lstm", "mlp"])
def test_the_network_starts_as_wide_as_torch_starts_it(how: str) -> None:
    made = _made(how)
    torch.manual_seed(0)
    for module in [*([made.lstm] if made.lstm is not None else []), *(made.mlp or [])]:
        if not hasattr(module, "reset_parameters"):
            continue
        found = [(float(p.detach().abs().max()), float(p.detach().std())) for p in module.parameters()]
        module.reset_parameters()
        for (most, deviation), parameter in zip(found, module.parameters(), strict=True):
            assert most == pytest.approx(float(parameter.detach().abs().max()), rel=0.15)
            if parameter.ndim > 1:
                assert deviation == pytest.approx(float(parameter.detach().std()), rel=0.05)
