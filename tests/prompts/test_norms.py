from __future__ import annotations

import pytest
import torch

from ptuning.prompts import DeepPrompts, GivenPrompts, PromptBank
from ptuning.prompts.norms import entry_norms, mean_norms


def test_a_norm_is_over_a_heads_width_and_its_mean_over_heads_and_tokens() -> None:
    states = torch.zeros(1, 2, 2, 2, 2)
    states[0, 0, 0] = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # norms 5 and 1 in head 0, nothing in head 1
    states[0, 1] = 1.0
    torch.testing.assert_close(mean_norms(states), torch.tensor([[6.0 / 4, 2.0**0.5]]))


def test_an_entry_is_its_own_prompts_at_its_own_layers() -> None:
    bank = PromptBank(4)
    prompts = torch.randn(2, 2, 3, 5, 8)
    bank.add(GivenPrompts(torch.ones(4, 2, 3, 2, 8)))
    bank.add(GivenPrompts(prompts), layers=[1, 3])
    found = entry_norms(bank, 1)
    assert found is not None and found["layers"] == [1, 3]
    for axis, name in enumerate(("keys", "values")):
        assert found[name] == pytest.approx(prompts[:, axis].norm(dim=-1).mean((1, 2)).tolist(), abs=6e-5)
        assert all(round(norm, 4) == norm for norm in found[name])


def test_what_an_mlp_produces_counts_without_dropout_or_gradients() -> None:
    bank = PromptBank(2)
    sizes = {"num_prompted_layers": 2, "num_kv_heads": 2, "prompt_length": 3, "head_dim": 4}
    prompts = DeepPrompts(**sizes, reparameterization="mlp", hidden_size=8, dropout=0.5)
    bank.add(prompts)
    bank.train()
    assert entry_norms(bank) == entry_norms(bank)
    expected = prompts.folded().norm(dim=-1).mean((2, 3))[:, 0].tolist()
    assert (entry_norms(bank) or {})["keys"] == pytest.approx(expected, abs=6e-5)


def test_an_entry_without_virtual_tokens_has_none() -> None:
    bank = PromptBank(2)
    bank.add(GivenPrompts(torch.zeros(2, 2, 2, 0, 4)))
    assert entry_norms(bank) is None
