from __future__ import annotations

import pytest
import torch

from ptuning.errors import PromptError
from ptuning.prompts import Entry
from ptuning.prompts.initialization import draw_like, from_saved, pick_tokens

SAVED = torch.zeros(2, 2, 1, 3, 1)


def test_the_first_tokens_are_taken_in_order() -> None:
    assert pick_tokens(3, 2).tolist() == [0, 1]


def test_fewer_tokens_than_asked_for_are_repeated_in_order() -> None:
    assert pick_tokens(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_random_tokens_are_drawn_without_repetition() -> None:
    picked = pick_tokens(50, 50, torch.Generator().manual_seed(0)).tolist()
    assert sorted(picked) == list(range(50)) and picked != sorted(picked)
    assert pick_tokens(50, 50, torch.Generator().manual_seed(0)).tolist() == picked
    assert len(set(pick_tokens(50, 20, torch.Generator().manual_seed(0)).tolist())) == 20


def test_no_tokens_is_an_error() -> None:
    with pytest.raises(PromptError, match="no tokens to start prompts from. Give a text"):
        pick_tokens(0, 2)


def test_a_saved_prompt_is_used_as_it_is() -> None:
    entry = Entry((0, 1), "shifted")
    assert from_saved(SAVED, entry, wanted=entry, prompt_length=3) is SAVED


@pytest.mark.parametrize(
    ("layers", "positions", "prompt_length", "words"),
    [
        ((1, 2), "shifted", 3, "layers 1, 2, prompt_length 3 and shifted positions"),
        ((0,), "shifted", 3, "layers 0, prompt_length 3 and shifted positions"),
        ((0, 1), "unshifted", 3, "layers 0, 1, prompt_length 3 and unshifted positions"),
        ((0, 1), "shifted", 4, "layers 0, 1, prompt_length 4 and shifted positions"),
    ],
)
def test_a_saved_prompt_of_other_layers_positions_or_length_is_refused(
    layers: tuple[int, ...], positions: str, prompt_length: int, words: str
) -> None:
    wanted = Entry(layers, positions)  # type: ignore[arg-type]
    with pytest.raises(PromptError) as caught:
        from_saved(SAVED, Entry((0, 1), "shifted"), wanted=wanted, prompt_length=prompt_length)
    assert str(caught.value) == (
        f"the saved prompt has layers 0, 1, prompt_length 3 and shifted positions, expected {words}. "
        "Set prompts.layers, prompts.prompt_length and prompts.positions to those it has."
    )


def test_drawn_tokens_have_the_statistics_of_real_ones() -> None:
    """Those of each layer, key or value, head and place: scale and offset differ between all of them."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(2, 2, 3, 1, 4, generator=generator) * 3
    offset = torch.randn(2, 2, 3, 1, 4, generator=generator)
    real = torch.randn(2, 2, 3, 500, 4, generator=generator) * scale + offset
    drawn = draw_like(real, 2000, generator)
    assert drawn.shape == (2, 2, 3, 2000, 4)
    torch.testing.assert_close(drawn.mean(3), real.mean(3), atol=0.25, rtol=0)
    torch.testing.assert_close(drawn.std(3), real.std(3), atol=0.0, rtol=0.1)
    with pytest.raises(PromptError, match="there are 1 tokens to take the deviation"):
        draw_like(real[:, :, :, :1], 4, generator)
