"""Inputs for a backbone that fills blanks by pieces, worked out by hand on a vocabulary of words."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ptuning.backbones.loading import load_backbone
from ptuning.backbones.pieces import piece_tokens
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.tasks.pattern_encoding import cut_longer_side
from ptuning.tasks.patterns import parse_pattern

SPECIAL = ("<eos>", "[CLS]", "[SEP]", "[MASK]", "<|startofpiece|>", "<|endofpiece|>", "[UNK]")
WORDS = ("a", "b", "c", "d", "e", "is", "so", "yes", "no", "may", "be", ",", ".", "?", '"')
EOS, CLS, SEP, MASK, SOP, EOP, UNK = range(7)


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer of whole words with GLM's template: <eos> is 0, a is 7, and so on."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A <eos>",
        pair="[CLS] $A [SEP] $B <eos>",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2), ("<eos>", 0)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="<eos>",
        pad_token="<eos>",
        unk_token="[UNK]",
        extra_special_tokens=["<|startofpiece|>", "<|endofpiece|>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def _ids(text: str) -> list[int]:
    names = {"cls": CLS, "sep": SEP, "mask": MASK, "sop": SOP, "eos": EOS, "unk": UNK}
    return [names[one] if one in names else 7 + WORDS.index(one) for one in text.split()]


def _classify(tokenizer: Any, pattern: str, row: dict[str, Any], words: tuple[str, ...], max_length: int = 64) -> Any:
    kind = Classification(tuple(map(str, range(len(words)))), pattern, words)
    return kind.encode([{**row, "label": "0"}], tokenizer, max_length, training=True)[0]


PAIR = {"text": "a b c", "text_pair": "d e ?"}


def test_a_text_and_a_pair_for_a_linear_head_are_the_tokenizers_own_template(words: Any) -> None:
    kind = Classification(("0", "1"))
    (single,) = kind.encode([{"text": "a b"}], words, 64, training=False)
    assert single.sequences == (_ids("cls a b eos"),) and single.token_types is None
    (pair,) = kind.encode([PAIR], words, 64, training=False)
    assert pair.sequences == (_ids("cls a b c sep d e ? eos"),)
    (cut,) = kind.encode([PAIR], words, 7, training=False)
    assert cut.sequences == (_ids("cls a b sep d e eos"),)


def test_label_words_of_one_token_are_asked_for_at_the_start_of_the_piece(words: Any) -> None:
    example = _classify(words, '"{text_pair|bare}" ?{/} {mask}, "{text}"', PAIR, ("yes", "no"))
    assert example.sequences == (_ids('cls " d e " ? mask , " a b c " eos sop'),)
    assert example.label == 0 and example.token_types is None
    tokens = piece_tokens(words)
    assert tokens is not None
    import torch

    found = tokens.inputs(torch.tensor(example.sequences))
    assert found["context_lengths"].tolist() == [14], "sep counts from [CLS] to <eos>, and is the place of <sop>"
    assert example.sequences[0][14] == SOP
    assert found["position_ids"].tolist() == [[[*range(14), 6], [*[0] * 14, 1]]]


def test_label_words_of_several_tokens_are_a_sequence_each(words: Any) -> None:
    example = _classify(words, "{text} is {mask}", {"text": "a"}, ("may be", "no", "so so"))
    assert example.sequences == (
        _ids("cls a is mask eos sop may be"),
        _ids("cls a is mask eos sop no"),
        _ids("cls a is mask eos sop so so"),
    )
    assert example.length == 8


def test_choices_fill_the_blank_themselves(words: Any) -> None:
    kind = MultipleChoice("{text} so {mask}.", ())
    rows = [
        {"text": "a", "choices": ["b c", "d"], "label": 1},
        {"text": "e", "question": "?", "choices": ["a", "b", "c [MASK] <|startofpiece|>"], "label": 0},
    ]
    first, second = kind.encode(rows, words, 64, training=True)
    assert first.sequences == (_ids("cls a so mask . eos sop b c"), _ids("cls a so mask . eos sop d"))
    assert second.sequences[:2] == (_ids("cls e ? so mask . eos sop a"), _ids("cls e ? so mask . eos sop b"))
    assert second.sequences[2] == _ids("cls e ? so mask . eos sop c unk unk"), "a text does not mean special tokens"
    assert (first.label, second.label) == (1, 0)


def test_choices_may_have_words_for_right_and_wrong(words: Any) -> None:
    kind = MultipleChoice("{text} {choice} ? {mask}", ("yes", "no"))
    (example,) = kind.encode([{"text": "a", "choices": ["b", "c d"]}], words, 64, training=False)
    assert example.sequences == (_ids("cls a b ? mask eos sop"), _ids("cls a c d ? mask eos sop"))


def test_the_gap_of_a_query_is_the_blank_that_entities_fill(words: Any) -> None:
    kind = Cloze("{passage} {query}", ())
    row = {
        "passage": "a b\n@highlight\nc",
        "query": "d @placeholder is e",
        "entities": ["a", "b c", "a", "e"],
        "answers": ["e", "d"],
    }
    asked = kind.encode([row], words, 64, training=False)
    context = "cls a b unk c d mask is e eos sop"  # the list's dash is no word here
    assert [example.sequences for example in asked] == [(_ids(f"{context} {one}"),) for one in ("a", "b c", "e")]
    learned = kind.encode([row], words, 64, training=True)
    assert [[own[11:] for own in example.sequences] for example in learned] == [
        [_ids("e"), _ids("a"), _ids("b c")],
        [_ids("d"), _ids("a"), _ids("b c")],
    ], "an example for each answer, against what is none"
    assert [example.label for example in learned] == [0, 0]


def test_an_answer_is_learned_against_nine_entities_at_most_the_same_at_any_place(words: Any) -> None:
    kind = Cloze("{passage} {query}", ())
    row = {
        "passage": "a",
        "query": "@placeholder is b",
        "entities": [f"{one} {other}" for one in "abcde" for other in "abc"],
        "answers": ["a a"],
    }
    alone, _, after = kind.encode([row, {**row, "query": "d @placeholder"}, row], words, 64, training=True)
    assert len(alone.sequences) == 10 and alone.sequences == after.sequences
    assert alone.sequences[0][-2:] == _ids("a a")
    assert len({tuple(own) for own in alone.sequences}) == 10


def test_virtual_tokens_of_a_pattern_stand_in_the_context(words: Any) -> None:
    example = _classify(words, "{prompt:2}{text} {prompt:1} {mask}", {"text": "a"}, ("yes", "no"))
    assert example.sequences == ([CLS, -1, -2, *_ids("a"), -3, MASK, EOS, SOP],)


def test_special_tokens_in_a_text_are_unknown_words(words: Any) -> None:
    text = "a [MASK] <|startofpiece|> <|endofpiece|> b"
    example = _classify(words, "{text} {mask}", {"text": text}, ("yes", "no"))
    assert example.sequences == (_ids("cls a unk unk unk b mask eos sop"),)


@pytest.mark.parametrize("token", ["[MASK]", "<|startofpiece|>", "<|endofpiece|>"])
def test_special_tokens_are_no_words_of_a_pattern(token: str, words: Any) -> None:
    with pytest.raises(ConfigError, match=rf"finds its own token {re.escape(token)}, .* Write {{mask}} where"):
        _classify(words, f"{{text}} {token} is {{mask}}", {"text": "a"}, ("yes", "no"))


def _by_hand(pattern: str, texts: dict[str, list[int]], room: int) -> dict[str, list[int]]:
    """As the original does it, token by token."""
    parts = parse_pattern(pattern, tuple(texts), ())
    sides: tuple[list[str], list[str]] = ([], [])
    is_second = False
    for part in parts:
        is_second |= part.kind == "side"
        if part.kind == "text":
            sides[is_second].append(part.value)
    left = {role: list(ids) for role, ids in texts.items()}
    while sum(map(len, left.values())) > room:
        first, second = (sum(len(left[role]) for role in side) for side in sides)
        side = sides[0] if first > second else sides[1]
        left[[role for role in side if left[role]][-1]].pop()
    return left


@pytest.mark.parametrize("pattern", ["{p} {q} {r}", "{p} {q}{/} {r}", "{r}{/} {p} {q}", "{/}{q} {p} {r}"])
def test_texts_are_cut_from_the_last_of_the_longer_side(pattern: str) -> None:
    draw = random.Random(pattern)
    parts = parse_pattern(pattern, ("p", "q", "r"), ())
    for _ in range(60):
        texts = {role: list(range(draw.randrange(9))) for role in "pqr"}
        room = draw.randrange(sum(map(len, texts.values())) + 1)
        assert cut_longer_side(parts, texts, room) == _by_hand(pattern, texts, room)


def test_room_is_kept_for_special_tokens_the_piece_and_what_is_whole(words: Any) -> None:
    # 7 are fixed: [CLS] " " ? [MASK] <eos> <sop>
    pattern = '"{text_pair}" ?{/} {mask} {text}'
    lengths = {17: ("d e ? so", "a b c d"), 14: ("d e ? so", "a b c"), 13: ("d e ?", "a b c"), 9: ("d", "a")}
    row = {"text": "a b c d", "text_pair": "d e ? so"}
    for max_length, (pair, text) in lengths.items():
        example = _classify(words, pattern, row, ("yes", "no"), max_length)
        assert example.sequences == (_ids(f'cls " {pair} " ? mask {text} eos sop'),), max_length
        assert example.length <= max_length
    whole = _classify(words, "{text_pair|whole} is {mask} {text}", row, ("yes", "no"), 11)
    assert whole.sequences == (_ids("cls d e ? so is mask a b eos sop"),)
    answer = _classify(words, "{text} {mask}", {"text": "a b c d"}, ("may be", "no"), 8)
    assert answer.sequences == (_ids("cls a b mask eos sop may be"), _ids("cls a b c mask eos sop no"))
    choice = MultipleChoice("{text} {mask}", ())
    (example,) = choice.encode([{"text": "a b c so", "choices": ["d e", "d"]}], words, 8, training=False)
    assert example.sequences == (_ids("cls c so mask eos sop d e"), _ids("cls b c so mask eos sop d"))
    cloze = Cloze("{passage} {query}", ())
    row = {"passage": "a b c d", "query": "is @placeholder", "entities": ["d e", "d"]}
    examples = cloze.encode([row], words, 9, training=False)
    assert [one.sequences[0] for one in examples] == [
        _ids("cls a b is mask eos sop d e"),
        _ids("cls a b c is mask eos sop d"),
    ]


def test_words_of_several_tokens_are_cut_around_what_their_own_row_marks(words: Any) -> None:
    rows = [
        {"text": "a b c d e", "keep": [[0, 1]], "label": "0"},
        {"text": "b c d e a", "keep": [[8, 9]], "label": "1"},
    ]
    kind = Classification(("0", "1"), "{text} {mask}", ("may be", "no so"))
    first, second = kind.encode(rows, words, 8, training=True)
    assert first.sequences == (_ids("cls a b mask eos sop may be"), _ids("cls a b mask eos sop no so"))
    assert second.sequences == (_ids("cls e a mask eos sop may be"), _ids("cls e a mask eos sop no so"))


def test_what_is_never_cut_and_does_not_fit_is_an_error(words: Any) -> None:
    row = {"text": "a", "text_pair": "a b c d e"}
    with pytest.raises(DataError, match="sequence 1: .* leave room for 0 tokens of its text in max_length 9, expected"):
        _classify(words, "{text} {text_pair|whole} {mask}", row, ("yes", "no"), 9)
    kind = MultipleChoice("{text} {mask}", ())
    with pytest.raises(DataError, match="sequence 2: .* Raise data.max_length to 9 or more, or shorten the row"):
        kind.encode([{"text": "a", "choices": ["a", "a b c d"]}], words, 8, training=False)
    with pytest.raises(DataError, match="the answer ' ' is no token to the tokenizer"):
        kind.encode([{"text": "a", "choices": ["a", " "]}], words, 8, training=False)


def test_a_backbone_without_pieces_cannot_fill_in_choices(tokenizer: Any) -> None:
    words = "the pattern no {choice}, which a backbone has to fill into a blank as texts of any length. Only GLM does"
    with pytest.raises(ConfigError, match=words):
        MultipleChoice("{text} {mask}", ()).encode(
            [{"text": "a", "choices": ["b", "c"]}], tokenizer, 64, training=False
        )
    row = {"passage": "a", "query": "@placeholder is b", "entities": ["a", "b"]}
    with pytest.raises(ConfigError, match="the entities are to fill the gap of the query themselves, which a backbone"):
        Cloze("{passage} {query}", ()).encode([row], tokenizer, 64, training=False)


def test_spaces_are_those_of_the_original(glm_with_words: Any) -> None:
    tokenizer = load_backbone(glm_with_words).tokenizer
    row = {"text": "the lamp is red.", "text_pair": "the lamp is blue."}
    example = _classify(tokenizer, '"{text_pair|bare}" ?{/} {mask}, "{text}"', row, ("Yes", "No"))
    # as '"' + hypothesis, '" ?', [MASK], ',', ' "', premise, '"' are tokenized by themselves
    pieces = ['"', "the lamp is blue", '" ?', "[MASK]", ",", ' "', "the lamp is red.", '"']
    own = [number for piece in pieces for number in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    ends = tokenizer.convert_tokens_to_ids(["[CLS]", "<|endoftext|>", "<|startofpiece|>"])
    assert example.sequences == ([ends[0], *own, *ends[1:]],)
    kind = Classification(("a", "b"), "{text} {mask}", ("Yes", "No"))
    assert kind.word_ids(tokenizer) == [[tokenizer.convert_tokens_to_ids(one)] for one in ("ĠYes", "ĠNo")]
