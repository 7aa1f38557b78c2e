from __future__ import annotations

import pytest
import torch

from ptuning.errors import PromptError
from ptuning.prompts.initialization import from_keys_values, from_saved

# (num_layers 2, 2, heads 1, tokens 3, head_dim 1): layer and token can be read off the number
KEYS_VALUES = torch.tensor([[[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]], [[10.0, 11.0, 12.0], [10.5, 11.5, 12.5]]]).view(
    2, 2, 1, 3, 1
)


def test_the_first_tokens_are_taken_in_order() -> None:
    picked = from_keys_values(KEYS_VALUES, layers=[1], prompt_length=2)
    assert picked.shape == (1, 2, 1, 2, 1)
    assert picked.flatten().tolist() == [10.0, 11.0, 10.5, 11.5]


def test_fewer_tokens_than_asked_for_are_repeated_in_order() -> None:
    picked = from_keys_values(KEYS_VALUES, layers=[0], prompt_length=7)
    assert picked[0, 0].flatten().tolist() == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0]


def test_random_tokens_are_drawn_without_repetition_and_stay_key_with_value() -> None:
    picked = from_keys_values(KEYS_VALUES, layers=[0, 1], prompt_length=3, generator=torch.Generator().manual_seed(0))
    assert sorted(picked[0, 0].flatten().tolist()) == [0.0, 1.0, 2.0]
    assert torch.equal(picked[:, 1], picked[:, 0] + 0.5)
    assert torch.equal(picked[1], picked[0] + 10.0)
    again = from_keys_values(KEYS_VALUES, layers=[0, 1], prompt_length=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(picked, again)


def test_no_tokens_is_an_error() -> None:
    with pytest.raises(PromptError, match="no tokens to start prompts from. Give a text"):
        from_keys_values(KEYS_VALUES[:, :, :, :0], layers=[0], prompt_length=2)


def test_a_saved_prompt_is_used_as_it_is_or_refused() -> None:
    assert from_saved(KEYS_VALUES, num_prompted_layers=2, prompt_length=3) is KEYS_VALUES
    for layers, length in ((1, 3), (2, 4)):
        with pytest.raises(PromptError, match=f"has 2 layers and prompt_length 3, expected {layers} and {length}"):
            from_saved(KEYS_VALUES, num_prompted_layers=layers, prompt_length=length)
