from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ptuning.errors import ConfigError
from ptuning.tasks.pattern_encoding import Texts, cut_longest_first, encode_in_pattern
from ptuning.tasks.patterns import parse_pattern

ROLES = ("text", "text_pair")


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """A byte-level tokenizer as RoBERTa's, with merges into a few whole words, and the space counted to the word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", *letters, "Ġt", "Ġtr", "Ġtru", "Ġtrue"]
    merges = [("Ġ", "t"), ("Ġt", "r"), ("Ġtr", "u"), ("Ġtru", "e")]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _never(index: int, texts: Texts, room: int) -> Texts:
    raise AssertionError("nothing is too long")


def _encode(
    tokenizer: Any, pattern: str, texts: dict[str, Sequence[str]], max_length: int = 64, **options: Any
) -> tuple[list[list[int]], list[list[int]] | None]:
    parts = parse_pattern(pattern, ROLES, ("text",))
    options.setdefault("shorten", lambda index, own, room: cut_longest_first(own, room))
    return encode_in_pattern(tokenizer, parts, texts, max_length, **options)


def _shown(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(f"<{-one}>" if one < 0 else tokenizer.convert_ids_to_tokens(one) for one in ids)


def test_texts_stand_in_the_pattern_with_special_tokens_around(tokenizer: Any) -> None:
    texts = {"text": ["The lamp is red.", "no"], "text_pair": ["It is blue.", "yes"]}
    ids, types = _encode(tokenizer, "{text} Question: {text_pair} True? {mask}.", texts, shorten=_never)
    assert [_shown(tokenizer, own) for own in ids] == [
        "[CLS] the lamp is red . question : it is blue . true ? [MASK] . [SEP]",
        "[CLS] no question : yes true ? [MASK] . [SEP]",
    ]
    assert types == [[0] * len(own) for own in ids], "a pattern is one segment"


def test_it_is_what_the_tokenizer_makes_of_the_whole_text(tokenizer: Any, byte_level: Any) -> None:
    for one in (tokenizer, byte_level):
        mask = one.mask_token
        ids, _ = _encode(one, "{text} so true, {text_pair} is {mask}.", {"text": ["a b"], "text_pair": ["true c"]})
        assert ids[0] == one(f"a b so true, true c is{' ' * (one is tokenizer)}{mask}.")["input_ids"]


def test_spaces_go_to_the_next_word_in_byte_level_tokenizers(byte_level: Any) -> None:
    ids, types = _encode(byte_level, "{text} true {mask}", {"text": ["true"]})
    assert _shown(byte_level, ids[0]) == "<s> t r u e Ġtrue <mask> </s>"
    ids, types = _encode(byte_level, "true: {text}{prompt:1} true", {"text": ["true"]})
    assert _shown(byte_level, ids[0]) == "<s> t r u e : Ġtrue <1> Ġtrue </s>"
    assert types is None


def test_virtual_tokens_are_negative_ids_numbered_through_the_sequence(tokenizer: Any) -> None:
    ids, types = _encode(tokenizer, "{prompt:2}{text} is {prompt:3} {mask}", {"text": ["it", "the lamp"]})
    assert [_shown(tokenizer, own) for own in ids] == [
        "[CLS] <1> <2> it is <3> <4> <5> [MASK] [SEP]",
        "[CLS] <1> <2> the lamp is <3> <4> <5> [MASK] [SEP]",
    ]
    assert types is not None and [len(own) for own in types] == [10, 11]


def test_the_mask_becomes_as_many_as_asked_for(tokenizer: Any) -> None:
    ids, _ = _encode(tokenizer, "{text} {mask}", {"text": ["it"]}, num_masks=3)
    assert _shown(tokenizer, ids[0]) == "[CLS] it [MASK] [MASK] [MASK] [SEP]"


def test_a_mask_token_in_a_text_is_no_second_mask(tokenizer: Any, byte_level: Any) -> None:
    ids, _ = _encode(tokenizer, "{text} {mask}", {"text": ["a [MASK] b", "c"]})
    assert _shown(tokenizer, ids[0]) == "[CLS] a [UNK] b [MASK] [SEP]"
    ids, _ = _encode(byte_level, "{text} {mask}", {"text": ["a<mask>b"]})
    assert _shown(byte_level, ids[0]) == "<s> a <unk> b <mask> </s>"
    ids, _ = _encode(tokenizer, "{text} so", {"text": ["a [MASK] b"]})
    assert "[MASK]" in _shown(tokenizer, ids[0]), "without a mask in the pattern texts stay as they are"


def test_texts_alone_are_cut(tokenizer: Any) -> None:
    texts = {"text": ["a b c d e f g h"], "text_pair": ["s t u v"]}
    whole = "[CLS] <1> a b c d e f g h so <2> s t u v ? [MASK] [SEP]"
    pattern = "{prompt:1}{text} so {prompt:1} {text_pair}? {mask}"
    assert _shown(tokenizer, _encode(tokenizer, pattern, texts, 17, shorten=_never)[0][0]) == whole
    for max_length, text, pair in ((16, "a b c d e f g", "s t u v"), (12, "a b c d", "s t u"), (7, "a", "s")):
        ids, types = _encode(tokenizer, pattern, texts, max_length)
        assert _shown(tokenizer, ids[0]) == f"[CLS] <1> {text} so <2> {pair} ? [MASK] [SEP]"
        assert sum(one >= 0 for one in ids[0]) == max_length  # virtual tokens come on top
        assert types is not None and len(types[0]) == len(ids[0]) == max_length + 2


@pytest.mark.parametrize(
    ("lengths", "room", "left"),
    [
        ((8, 4), 12, (8, 4)),
        ((8, 4), 9, (5, 4)),
        ((8, 4), 8, (4, 4)),
        ((8, 4), 7, (4, 3)),
        ((4, 8), 7, (4, 3)),
        ((5, 5, 2), 9, (4, 3, 2)),
        ((5, 5, 2), 4, (2, 1, 1)),
        ((9, 0), 3, (3, 0)),
    ],
)
def test_the_longest_text_is_cut_first_from_its_end(lengths: tuple[int, ...], room: int, left: tuple[int, ...]) -> None:
    texts = {str(place): list(range(length)) for place, length in enumerate(lengths)}
    cut = cut_longest_first(texts, room)
    assert tuple(map(len, cut.values())) == left
    assert all(ids == list(range(len(ids))) for ids in cut.values())


def test_no_room_for_the_texts_is_an_error(tokenizer: Any) -> None:
    words = "max_length is 6, but special tokens and the words .* are 5 tokens, so at least 7 are needed"
    with pytest.raises(ConfigError, match=words):
        _encode(tokenizer, "{prompt:2}{text} so {text_pair}? {mask}", {"text": ["a"], "text_pair": ["b"]}, 6)


def test_a_tokenizer_without_a_mask_token_is_an_error(byte_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data.pattern has a {mask}, but the tokenizer \(.*\) has no mask token"):
        _encode(byte_tokenizer, "{text} {mask}", {"text": ["a"]})
    ids, _ = _encode(byte_tokenizer, "{text} so", {"text": ["a"]})
    assert _shown(byte_tokenizer, ids[0]) == "<s> a Ġ s o </s>"


def test_the_tokenizers_own_mask_in_a_pattern_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"the words 'is \[MASK\]', .* finds its own token \[MASK\], .* Write {mask} where"
    ):
        _encode(tokenizer, "{text} is [MASK] {mask}", {"text": ["a"]})


def test_more_rows_than_are_tokenized_at_once_keep_their_order(tokenizer: Any) -> None:
    texts = [str(number) for number in range(1500)]
    ids, _ = _encode(tokenizer, "{text} {mask}", {"text": texts})
    decoded = [tokenizer.decode(own[1:-2]).replace(" ", "") for own in ids]
    assert decoded == texts
