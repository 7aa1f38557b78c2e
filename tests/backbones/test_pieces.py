from __future__ import annotations

from typing import Any

import torch

from ptuning.backbones import glm
from ptuning.backbones.loading import load_backbone
from ptuning.backbones.pieces import END, START, PieceTokens, piece_tokens

TOKENS = PieceTokens(start=90, end=91, blank=92)


def test_a_piece_has_the_position_of_its_blank_and_blocks_of_its_own() -> None:
    ids = torch.tensor([[80, 5, 92, 6, 81, 90, 7, 8, 81]])  # [CLS] 5 [MASK] 6 <eos> <sop> 7 8, and padding
    found = TOKENS.inputs(ids)
    assert found["context_lengths"].tolist() == [5]
    assert found["position_ids"].tolist() == [[[0, 1, 2, 3, 4, 2, 2, 2, 2], [0, 0, 0, 0, 0, 1, 2, 3, 4]]]


def test_a_row_without_a_piece_is_all_context() -> None:
    found = TOKENS.inputs(torch.tensor([[80, 5, 81, 81], [80, 92, 81, 90]]))
    assert found["context_lengths"].tolist() == [4, 3]
    assert found["position_ids"].tolist() == [[[0, 1, 2, 3], [0, 0, 0, 0]], [[0, 1, 2, 1], [0, 0, 0, 1]]]


def test_a_start_that_is_none_is_a_token_like_others() -> None:
    ids = torch.tensor([[80, 92, 81, 90], [80, 92, 81, 90]])
    found = TOKENS.inputs(ids, torch.tensor([False, True]))
    assert found["context_lengths"].tolist() == [4, 3]
    assert found["position_ids"][0].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]


def test_the_first_blank_and_the_first_start_count() -> None:
    found = TOKENS.inputs(torch.tensor([[92, 92, 90, 92, 90]]))
    assert found["context_lengths"].tolist() == [2]
    assert found["position_ids"].tolist() == [[[0, 1, 0, 0, 0], [0, 0, 1, 2, 3]]]


def test_padding_on_the_right_changes_nothing_in_front_of_it() -> None:
    short = TOKENS.inputs(torch.tensor([[80, 92, 81, 90, 7]]))
    long = TOKENS.inputs(torch.tensor([[80, 92, 81, 90, 7, 81, 81]]))
    assert torch.equal(short["context_lengths"], long["context_lengths"])
    assert torch.equal(short["position_ids"], long["position_ids"][..., :5])


def test_the_tokenizer_says_whether_there_are_pieces(glm_with_words: Any, tiny_backbone: Any) -> None:
    tokenizer = load_backbone(glm_with_words).tokenizer
    assert (glm.START_OF_PIECE, glm.END_OF_PIECE) == (START, END)
    ids = tokenizer.convert_tokens_to_ids([START, END, "[MASK]"])
    assert piece_tokens(tokenizer) == PieceTokens(*ids)
    assert len(set(ids)) == 3
    backbone = load_backbone(tiny_backbone)
    assert backbone.pieces is None and piece_tokens(backbone.tokenizer) is None
