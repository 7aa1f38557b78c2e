from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ptuning.errors import DataError
from ptuning.heads import VerbalizerHead, reads_first_token

MASK = 9


class Identity(nn.Module):
    """Hidden states that are the scores of a vocabulary of four already; it remembers how many it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.asked: list[tuple[int, ...]] = []

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.asked.append(tuple(hidden_states.shape))
        return hidden_states * self.weight


def _log(*chances: float) -> list[float]:
    return [math.log(chance) for chance in chances]


FIRST, SECOND = _log(0.5, 0.25, 0.125, 0.125), _log(0.1, 0.2, 0.3, 0.4)
NOISE = [7.0, -3.0, 2.0, 5.0]


def test_a_word_of_one_token_scores_its_log_probability_at_the_mask() -> None:
    head = VerbalizerHead(Identity(), [[0], [2]], MASK)
    hidden = torch.tensor([[NOISE, FIRST, NOISE], [SECOND, NOISE, NOISE]])
    ids = torch.tensor([[1, MASK, 2], [MASK, 1, 0]])
    scores = head(hidden, torch.tensor([[1, 1, 1], [1, 1, 0]]), ids)
    assert scores.exp().tolist() == [pytest.approx([0.5, 0.125]), pytest.approx([0.1, 0.3])]


def test_scores_are_normalized_over_the_whole_vocabulary() -> None:
    head = VerbalizerHead(Identity(), [[0], [1]], MASK)
    shifted = torch.tensor([[[value + 3.0 for value in FIRST]]])
    scores = head(shifted, torch.ones(1, 1, dtype=torch.long), torch.tensor([[MASK]]))
    assert scores.exp().tolist() == [pytest.approx([0.5, 0.25])]


def test_words_of_several_tokens_score_the_mean_over_their_masks() -> None:
    head = VerbalizerHead(Identity(), [[0, 3], [1], [2, 2]], MASK)
    assert head.num_masks == 2
    hidden = torch.tensor([[FIRST, NOISE, SECOND]])
    scores = head(hidden, torch.ones(1, 3, dtype=torch.long), torch.tensor([[MASK, 1, MASK]]))
    assert scores.exp().tolist() == [pytest.approx([math.sqrt(0.5 * 0.4), 0.25, math.sqrt(0.125 * 0.3)])]


def test_a_choice_scores_right_less_wrong() -> None:
    head = VerbalizerHead(Identity(), [[0], [1]], MASK, is_choice=True)
    hidden = torch.tensor([[FIRST], [SECOND]])
    scores = head(hidden, torch.ones(2, 1, dtype=torch.long), torch.tensor([[MASK], [MASK]]))
    assert scores.exp().tolist() == pytest.approx([2.0, 0.5])


def test_only_hidden_states_at_masks_go_through_the_language_modeling_head() -> None:
    inner = Identity()
    head = VerbalizerHead(inner, [[0], [1]], MASK)
    ids = torch.tensor([[1, MASK, MASK], [MASK, 1, 1]])
    head(torch.zeros(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]]), ids)  # the second mask is padding
    assert inner.asked == [(2, 4)]


def test_nothing_is_trained_or_saved_and_gradients_reach_the_hidden_states() -> None:
    head = VerbalizerHead(Identity(), [[0], [1]], MASK)
    assert not list(head.parameters()) and not head.state_dict()
    assert not reads_first_token(head)
    hidden = torch.zeros(1, 2, 4, requires_grad=True)
    head(hidden, torch.ones(1, 2, dtype=torch.long), torch.tensor([[1, MASK]]))[0, 0].backward()
    assert hidden.grad is not None
    assert hidden.grad[0].tolist() == [[0.0] * 4, pytest.approx([0.75, -0.25, -0.25, -0.25])]


def test_scores_are_float32_on_a_bfloat16_head() -> None:
    head = VerbalizerHead(Identity().bfloat16(), [[0], [1]], MASK)
    hidden = torch.tensor([[FIRST]]).bfloat16()
    assert head(hidden, torch.ones(1, 1, dtype=torch.long), torch.tensor([[MASK]])).dtype == torch.float32


@pytest.mark.parametrize(("ids", "found"), [([[MASK, 1], [1, 1]], 0), ([[MASK, 1], [MASK, MASK]], 2)])
def test_another_number_of_masks_is_an_error(ids: list[list[int]], found: int) -> None:
    head = VerbalizerHead(Identity(), [[0], [1]], MASK)
    with pytest.raises(DataError, match=rf"sequence 1 of a batch has {found} masks \(token 9\), expected 1"):
        head(torch.zeros(2, 2, 4), torch.ones(2, 2, dtype=torch.long), torch.tensor(ids))


def test_an_empty_batch_has_no_scores() -> None:
    head = VerbalizerHead(Identity(), [[0, 1], [1]], MASK)
    empty = torch.zeros(0, 3, dtype=torch.long)
    assert head(torch.zeros(0, 3, 4), empty, empty).shape == (0, 2)
