from __future__ import annotations

import pytest
import torch

from ptuning.backbones.masks import widen_bias, widen_mask, widen_padding_mask

CPU = torch.device("cpu")
LOWEST = torch.finfo(torch.float32).min


def test_bool_mask_gets_visible_columns_in_front() -> None:
    mask = torch.tensor([[True, False], [True, True]])[None, None]
    widened = widen_mask(
        mask, None, num_queries=2, num_keys=2, num_virtual=2, is_causal=False, dtype=torch.bool, device=CPU
    )
    assert widened is not None
    assert widened[0, 0].tolist() == [[True, True, True, False], [True, True, True, True]]


def test_additive_mask_gets_zeros_in_front_and_hides_missing_virtual_tokens() -> None:
    mask = torch.tensor([0.0, LOWEST])[None, None, None]  # (1, 1, 1, 2)
    prompt_mask = torch.tensor([[True, True], [True, False]])
    widened = widen_mask(
        mask, prompt_mask, num_queries=3, num_keys=2, num_virtual=2, is_causal=False, dtype=torch.bool, device=CPU
    )
    assert widened is not None
    assert widened[:, 0, 0].tolist() == [[0.0, 0.0, 0.0, LOWEST], [0.0, LOWEST, 0.0, LOWEST]]


@pytest.mark.parametrize(("dtype", "shown", "hidden"), [(torch.bool, True, False), (torch.float32, 0.0, LOWEST)])
def test_missing_mask_is_built_as_the_attention_takes_it(dtype: torch.dtype, shown: object, hidden: object) -> None:
    """Eager attention adds its mask to the scores: a bool one would add 1 where it should hide."""
    prompt_mask = torch.tensor([[True, False]])
    widened = widen_mask(
        None, prompt_mask, num_queries=2, num_keys=2, num_virtual=2, is_causal=False, dtype=dtype, device=CPU
    )
    assert widened is not None and widened.dtype == dtype
    assert widened[0, 0].tolist() == [[shown, hidden, shown, shown]]


@pytest.mark.parametrize(("dtype", "shown", "hidden"), [(torch.bool, True, False), (torch.float32, 0.0, LOWEST)])
def test_missing_causal_mask_is_built(dtype: torch.dtype, shown: object, hidden: object) -> None:
    widened = widen_mask(None, None, num_queries=2, num_keys=3, num_virtual=1, is_causal=True, dtype=dtype, device=CPU)
    assert widened is not None and widened.dtype == dtype
    assert widened[0, 0].tolist() == [[shown, shown, shown, hidden], [shown, shown, shown, shown]]


def test_no_mask_is_needed_when_everything_is_visible() -> None:
    for is_causal, num_queries in ((False, 3), (True, 1)):
        assert (
            widen_mask(
                None,
                None,
                num_queries=num_queries,
                num_keys=3,
                num_virtual=2,
                is_causal=is_causal,
                dtype=torch.bool,
                device=CPU,
            )
            is None
        )


def test_position_bias_is_zero_for_virtual_tokens() -> None:
    assert widen_bias(torch.tensor([[1.0, 2.0]]), 2).tolist() == [[0.0, 0.0, 1.0, 2.0]]


def test_padding_mask_of_flash_attention() -> None:
    mask = torch.tensor([[1, 1, 0]])
    prompt_mask = torch.tensor([[True, False]])
    sizes = {"batch_size": 1, "num_keys": 3, "num_virtual": 2, "device": CPU}
    assert widen_padding_mask(None, None, **sizes) is None
    widened = [widen_padding_mask(m, p, **sizes) for m, p in ((mask, prompt_mask), (mask, None), (None, prompt_mask))]
    assert [None if w is None else w.tolist() for w in widened] == [
        [[1, 0, 1, 1, 0]],
        [[1, 1, 1, 1, 0]],
        [[True, False, True, True, True]],
    ]
