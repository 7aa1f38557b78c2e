from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ptuning.errors import DataError
from ptuning.heads import AnswerHead, VerbalizerHead, reads_pieces

START, END = 3, 4
# scores of a vocabulary of five tokens at one place each
FIRST = [0.5, 0.25, 0.125, 0.0625, 0.0625]
SECOND = [0.1, 0.2, 0.3, 0.15, 0.25]
THIRD = [0.05, 0.05, 0.1, 0.2, 0.6]
NOISE = [7.0, -3.0, 2.0, 5.0, 1.0]


class Identity(nn.Module):
    """Hidden states that are the scores of the vocabulary already; it remembers how many it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.asked.append(tuple(hidden_states.shape))
        return hidden_states

    def of_tokens(self, hidden_states: Tensor, token_ids: Tensor) -> Tensor:
        self.asked.append((*hidden_states.shape, *token_ids.shape))
        return hidden_states[..., token_ids]


def _hidden(*rows: list[list[float]]) -> Tensor:
    logs = [[[math.log(one) if 0 < one < 1 else one for one in place] for place in row] for row in rows]
    return torch.tensor(logs, dtype=torch.float64)


# [CLS] <sop> 2 0     and     <sop> 1 and padding
IDS = torch.tensor([[1, START, 2, 0], [START, 1, 4, 4]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
HIDDEN = _hidden([NOISE, FIRST, SECOND, THIRD], [SECOND, THIRD, NOISE, NOISE])


def test_an_answer_scores_the_sum_over_its_tokens_and_its_end() -> None:
    scores = AnswerHead(Identity(), START, END)(HIDDEN, MASK, IDS)
    assert scores.exp().tolist() == pytest.approx([0.125 * 0.1 * 0.6, 0.2 * 0.6])


def test_a_length_penalty_divides_by_the_number_of_terms_to_its_power() -> None:
    sums = AnswerHead(Identity(), START, END)(HIDDEN, MASK, IDS)
    means = AnswerHead(Identity(), START, END, length_penalty=1.0)(HIDDEN, MASK, IDS)
    roots = AnswerHead(Identity(), START, END, length_penalty=0.5)(HIDDEN, MASK, IDS)
    lengths = torch.tensor([3.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(means, sums / lengths)
    torch.testing.assert_close(roots, sums / lengths.sqrt())


def test_only_hidden_states_of_pieces_go_through_the_language_modeling_head() -> None:
    inner = Identity()
    AnswerHead(inner, START, END)(HIDDEN, MASK, IDS)
    assert inner.asked == [(5, 5)]
    inner = Identity()
    VerbalizerHead(inner, [[0], [2]], START, reads_pieces=True)(HIDDEN, MASK, IDS)
    assert inner.asked == [(2, 5, 2)], "and of the vocabulary the label words alone"


def test_label_words_at_the_start_of_a_piece_score_as_they_are() -> None:
    scores = VerbalizerHead(Identity(), [[0], [2]], START, reads_pieces=True)(HIDDEN, MASK, IDS)
    assert scores.exp().tolist() == [pytest.approx([0.5, 0.125]), pytest.approx([0.1, 0.3])]
    choices = VerbalizerHead(Identity(), [[0], [2]], START, is_choice=True, reads_pieces=True)(HIDDEN, MASK, IDS)
    assert choices.exp().tolist() == pytest.approx([4.0, 1 / 3])


def test_scores_that_are_not_normalized_have_the_same_loss_and_gradients() -> None:
    labels, losses, gradients = torch.tensor([1, 0]), [], []
    for is_raw in (False, True):
        hidden = (HIDDEN + 3.0).requires_grad_()
        head = VerbalizerHead(Identity(), [[0], [2]], START, reads_pieces=is_raw)
        loss = nn.functional.cross_entropy(head(hidden, MASK, IDS), labels)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, hidden)[0])
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_nothing_is_trained_or_saved_and_gradients_reach_the_hidden_states() -> None:
    head = AnswerHead(Identity(), START, END)
    assert not list(head.parameters()) and not head.state_dict() and reads_pieces(head)
    hidden = HIDDEN.clone().requires_grad_()
    head(hidden, MASK, IDS)[1].backward()
    assert hidden.grad is not None
    assert hidden.grad[0].abs().sum() == 0 and hidden.grad[1, 2:].abs().sum() == 0
    assert hidden.grad[1, 0].tolist() == pytest.approx([-0.1, 0.8, -0.3, -0.15, -0.25])


@pytest.mark.parametrize(("ids", "found"), [([1, 1, 2, 0], 0), ([START, START, 2, 0], 2)])
def test_another_number_of_pieces_is_an_error(ids: list[int], found: int) -> None:
    for head in (
        AnswerHead(Identity(), START, END),
        VerbalizerHead(Identity(), [[0], [2]], START, reads_pieces=True),
    ):
        with pytest.raises(DataError, match=rf"sequence 0 of a batch has {found} starts of a piece \(token 3\)"):
            head(HIDDEN[:1], MASK[:1], torch.tensor([ids]))


def test_scores_are_float32_on_a_bfloat16_head() -> None:
    head = AnswerHead(Identity(), START, END)
    assert head(HIDDEN.bfloat16(), MASK, IDS).dtype == torch.float32
