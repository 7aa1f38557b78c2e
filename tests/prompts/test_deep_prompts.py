from __future__ import annotations

from typing import Any

import pytest
import torch

from ptuning.errors import ConfigError, PromptError
from ptuning.prompts import DeepPrompts, GivenPrompts

SIZES: dict[str, Any] = {"num_prompted_layers": 3, "num_kv_heads": 2, "prompt_length": 5, "head_dim": 4}


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shape_and_parameters() -> None:
    prompts = DeepPrompts(**SIZES)
    assert prompts().shape == prompts.shape == (3, 2, 2, 5, 4)
    assert prompts.prompt_length == 5
    assert prompts() is prompts.prompts
    assert [name for name, _ in prompts.named_parameters()] == ["prompts"]
    assert DeepPrompts(**{**SIZES, "prompt_length": 0})().shape == (3, 2, 2, 0, 4)


def test_normal_start_has_the_given_std_and_repeats_by_seed() -> None:
    sizes = {**SIZES, "prompt_length": 200}
    for std in (0.02, 1.0):
        start = DeepPrompts(**sizes, init_std=std, generator=_seeded()).folded()
        assert abs(float(start.std()) / std - 1) < 0.03 and abs(float(start.mean())) < 0.05 * std
        assert torch.equal(start, DeepPrompts(**sizes, init_std=std, generator=_seeded()).folded())
        assert not torch.equal(start, DeepPrompts(**sizes, init_std=std, generator=_seeded(1)).folded())
    assert abs(float(DeepPrompts(**sizes).folded().std()) / 0.02 - 1) < 0.03, "the official code's by default"


def test_initial_values_are_copied_in_fp32() -> None:
    initial = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, generator=_seeded())
    prompts = DeepPrompts(**SIZES, initial=initial)
    assert prompts().dtype == torch.float32 and torch.equal(prompts(), initial.float())
    single = initial.float()
    prompts = DeepPrompts(**SIZES, initial=single)
    single.zero_()
    assert prompts().any()


def test_folding_the_reparameterization_gives_what_it_gave() -> None:
    options: dict[str, Any] = {"reparameterization": "mlp", "hidden_size": 8, "reparameterization_size": 16}
    prompts = DeepPrompts(**SIZES, **options, generator=_seeded())
    folded = prompts.folded()
    assert torch.equal(folded, prompts()) and not folded.requires_grad
    assert torch.equal(DeepPrompts(**SIZES, initial=folded)(), prompts())
    prompts().sum().backward()
    assert prompts.prompts is None
    assert {name for name, p in prompts.named_parameters() if p.grad is not None} == {
        "mlp.embedding",
        "mlp.inner.weight",
        "mlp.inner.bias",
        "mlp.outer.weight",
        "mlp.outer.bias",
    }
    again = DeepPrompts(**SIZES, **options, generator=_seeded())
    assert torch.equal(again.folded(), folded)


def test_the_mlp_is_the_original_prefix_encoder() -> None:
    """Embedding, Linear, tanh, Linear; viewed as (P, 2 * layers, heads, head_dim), row 2i key and 2i + 1 value."""
    prompts = DeepPrompts(**SIZES, reparameterization="mlp", hidden_size=8, generator=_seeded())
    mlp = prompts.mlp
    assert mlp is not None and mlp.inner.out_features == 512
    assert not mlp.inner.bias.any() and not mlp.outer.bias.any()
    inner = torch.tanh(mlp.embedding @ mlp.inner.weight.T)
    original = (inner @ mlp.outer.weight.T).view(5, 6, 2, 4)  # (P, 2 * layers, H, D)
    for layer in range(3):
        for kind in range(2):
            expected = original[:, 2 * layer + kind].permute(1, 0, 2)  # (H, P, D)
            torch.testing.assert_close(prompts()[layer, kind], expected)


@pytest.mark.parametrize("init_std", [0.02, 1.0])
def test_the_mlp_starts_as_the_original_whatever_the_std_of_a_plain_start(init_std: float) -> None:
    sizes = {**SIZES, "prompt_length": 100}
    prompts = DeepPrompts(**sizes, reparameterization="mlp", hidden_size=64, init_std=init_std, generator=_seeded())
    mlp = prompts.mlp
    assert mlp is not None
    for weights in (mlp.embedding, mlp.inner.weight, mlp.outer.weight):
        assert abs(float(weights.detach().std()) / 0.02 - 1) < 0.03
    assert not mlp.inner.bias.any() and not mlp.outer.bias.any()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prompt_length": -1}, PromptError, "prompt_length of at least 0, got 3, 2, 4 and -1"),
        ({"num_prompted_layers": 0}, PromptError, "need num_prompted_layers, .* of at least 1"),
        ({"dropout": 1.0}, ConfigError, r"prompts.dropout is 1.0, expected a probability in \[0, 1\)"),
        ({"dropout": -0.1}, ConfigError, "prompts.dropout is -0.1"),
        ({"initial": torch.zeros(3, 2, 2, 4, 4)}, PromptError, r"have shape \(3, 2, 2, 4, 4\), expected .* 5, 4\)"),
        ({"reparameterization": "lstm"}, ConfigError, "is 'lstm', expected `none` or `mlp`"),
        ({"gate": "keys"}, ConfigError, "prompts.gate is .keys., expected `none` or `values`"),
        ({"reparameterization": "mlp"}, ConfigError, "`mlp` needs hidden_size"),
        (
            {"reparameterization": "mlp", "hidden_size": 8, "initial": torch.zeros(3, 2, 2, 5, 4)},
            ConfigError,
            "cannot start from given ones. Use `reparameterization: none`, or `init: normal`",
        ),
    ],
)
def test_mistakes(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        DeepPrompts(**{**SIZES, **change})


def test_given_prompts_are_the_callers_own_tensor() -> None:
    tensor = torch.randn(1, 2, 3, 4, 5, requires_grad=True)
    given = GivenPrompts(tensor)
    assert given() is tensor and given.shape == (1, 2, 3, 4, 5) and given.prompt_length == 4
    assert not list(given.parameters())


def test_a_gate_multiplies_the_values_of_each_layer_and_head() -> None:
    plain = DeepPrompts(**SIZES, generator=_seeded())
    gated = DeepPrompts(**SIZES, gate="values", generator=_seeded())
    assert gated.gate is not None and gated.gate.shape == (3, 2)
    assert gated().shape == gated.shape and not gated()[:, 1].any()
    gated().sum().backward()
    assert gated.prompts is not None and gated.prompts.grad is not None
    assert gated.gate.grad is not None and gated.gate.grad.all() and not gated.prompts.grad[:, 1].any()
    with torch.no_grad():
        gated.gate.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]]))
    keys, values = plain().unbind(1)
    assert torch.equal(gated()[:, 0], keys)
    assert torch.equal(gated()[1, 1, 0], 3 * values[1, 0]) and torch.equal(gated()[1, 1, 1], -values[1, 1])
    assert torch.equal(DeepPrompts(**SIZES, initial=gated.folded())(), gated())
