from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ptuning.backbones.pairs import part_pairs


@pytest.fixture
def make() -> Callable[..., Any]:
    """A byte-level tokenizer, a token a byte, with a post-processor that is given."""

    def tokenizer(processor: Any, **special: str) -> Any:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate(["<bos>", "<eos>", *letters])}
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if processor is not None:
            inner.post_processor = processor
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", **special)

    return tokenizer


def _template(pair: str) -> Any:
    return processors.TemplateProcessing(single="<bos> $A", pair=pair, special_tokens=[("<bos>", 0), ("<eos>", 1)])


@pytest.mark.parametrize(
    ("processor", "bos"),
    [
        (None, 0),
        (processors.ByteLevel(trim_offsets=False), 0),
        (_template("<bos> $A $B:1"), 1),
        (processors.Sequence([processors.ByteLevel(trim_offsets=False), _template("<bos> $A $B:1")]), 1),
        (processors.Sequence([processors.ByteLevel(trim_offsets=False)]), 0),
    ],
    ids=["none", "bytes", "template", "bytes-and-template", "sequence"],
)
def test_texts_that_would_be_joined_get_a_line_break_between_them(processor: Any, bos: int, make: Any) -> None:
    tokenizer = make(processor)
    before = tokenizer("ab", "cd", return_offsets_mapping=True)
    single = tokenizer("ab", return_offsets_mapping=True)
    part_pairs(tokenizer)
    after = tokenizer("ab", "cd", return_offsets_mapping=True)
    break_id = tokenizer.convert_tokens_to_ids("Ċ")  # a line break, as byte-level tokenizers write it
    middle = bos + 2
    assert after["input_ids"] == [*before["input_ids"][:middle], break_id, *before["input_ids"][middle:]]
    assert after.sequence_ids(0) == [None] * bos + [0, 0, None, 1, 1]
    assert after["offset_mapping"] == [*before["offset_mapping"][:middle], (0, 0), *before["offset_mapping"][middle:]]
    assert tokenizer("ab", return_offsets_mapping=True)["input_ids"] == single["input_ids"]
    assert tokenizer.num_special_tokens_to_add(pair=True) == bos + 1
    assert tokenizer.num_special_tokens_to_add(pair=False) == bos
    cut = tokenizer("abcd", "efgh", truncation="longest_first", max_length=bos + 5)
    assert len(cut["input_ids"]) == bos + 5 and break_id in cut["input_ids"]
    part_pairs(tokenizer)  # once is enough
    assert tokenizer("ab", "cd")["input_ids"] == after["input_ids"]


@pytest.mark.parametrize("pair", ["<bos> $A <bos> $B:1", "<bos> $A <eos> $B:1 <eos>"])
def test_texts_with_a_token_between_them_stay_as_they_are(pair: str, make: Any) -> None:
    tokenizer = make(_template(pair))
    before = tokenizer("ab", "cd")["input_ids"]
    part_pairs(tokenizer)
    assert tokenizer("ab", "cd")["input_ids"] == before


@pytest.mark.parametrize("has_end", [True, False])
def test_a_tokenizer_that_cannot_write_a_line_break_puts_no_unknown_token_there(has_end: bool) -> None:
    """Such as SentencePiece's with neither a line break nor bytes: it writes a space and something unknown."""
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "<eos>", "▁", "a", "▁a"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = {"eos_token": "<eos>"} if has_end else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)
    assert 0 in tokenizer("\n")["input_ids"]
    part_pairs(tokenizer)
    ids = tokenizer("a", "a")["input_ids"]
    assert 0 not in ids and (1 in ids) == has_end


def test_a_tokenizer_that_drops_line_breaks_puts_its_end_token_there() -> None:
    inner = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "<eos>": 1, "a": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>")
    part_pairs(tokenizer)
    assert tokenizer("a", "a")["input_ids"] == [2, 1, 2]
