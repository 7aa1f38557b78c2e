"""Texts cut around what a row marks: with a tokenizer as BERT's and one as RoBERTa's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ptuning.backbones.loading import load_backbone
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.classification import Classification
from ptuning.tasks.encoding import cut_around
from ptuning.training.run import prepare_task, train

KIND = Classification(("no", "yes"))
FILLER = "one two three four five six seven eight nine ten"


def _row(before: str, word: str, after: str, **others: Any) -> dict[str, Any]:
    start = len(before) + 1
    return {"text": f"{before} {word} {after}", "keep": [[start, start + len(word)]], **others}


def _cut(row: dict[str, Any], tokenizer: Any, max_length: int) -> tuple[str, list[int] | None]:
    example = KIND.encode([row], tokenizer, max_length, training=False)[0]
    assert example.length <= max_length
    return tokenizer.decode(example.sequences[0]), None if example.token_types is None else example.token_types[0]


def _has(ids: list[int], text: str, tokenizer: Any) -> bool:
    """Whether the tokens of a text stand in `ids` one behind the other."""
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    return any(ids[start : start + len(wanted)] == wanted for start in range(len(ids)))


def test_the_farthest_tokens_go_first_and_of_equally_far_ones_the_last(tokenizer: Any) -> None:
    row = _row("one two three", "lamp", "five six seven eight")
    assert _cut(row, tokenizer, 9)[0] == "[CLS] one two three lamp five six seven [SEP]"
    assert _cut(row, tokenizer, 8)[0] == "[CLS] one two three lamp five six [SEP]"
    assert _cut(row, tokenizer, 7)[0] == "[CLS] two three lamp five six [SEP]"
    assert _cut(row, tokenizer, 3)[0] == "[CLS] lamp [SEP]"


def test_text_between_two_marks_goes_before_text_beside_one(tokenizer: Any) -> None:
    row = {"text": "blue two three four five six lamp eight", "keep": [[0, 4], [29, 33]]}
    assert row["text"][29:33] == "lamp"
    assert _cut(row, tokenizer, 8)[0] == "[CLS] blue two three six lamp eight [SEP]"


def test_the_whole_second_text_stays_and_token_types_are_right(tokenizer: Any) -> None:
    row = _row(FILLER, "lamp", FILLER, text_pair="a b c d e f")
    text, types = _cut(row, tokenizer, 12)
    assert text == "[CLS] ten lamp one [SEP] a b c d e f [SEP]"
    assert types == [0] * 5 + [1] * 7


def test_all_pieces_of_a_marked_word_stay(tokenizer: Any, byte_tokenizer: Any) -> None:
    row = _row(FILLER, "photosynthesizes", FILLER)
    assert len(tokenizer.tokenize("photosynthesizes")) > 1
    for max_length in (8, 12, 16):
        assert _has(
            KIND.encode([row], tokenizer, max_length, training=False)[0].sequences[0], "photosynthesizes", tokenizer
        )
    row = _row(FILLER, "caffè 灯", FILLER)
    word = byte_tokenizer("caffè 灯", add_special_tokens=False)["input_ids"]
    assert len(word) == 10  # bytes
    example = KIND.encode([row], byte_tokenizer, 14, training=False)[0]
    assert example.sequences[0][2:-2] == word


@pytest.mark.parametrize("pair", [None, "a b c"])
@pytest.mark.parametrize("name", ["tokenizer", "byte_tokenizer"])
def test_rows_that_are_short_enough_or_mark_nothing_are_tokenized_as_others(
    name: str, pair: str | None, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    row = _row("one two", "lamp", "four five")
    if pair is not None:
        row["text_pair"] = pair
    plain = {role: value for role, value in row.items() if role != "keep"}
    length = len(tokenizer(row["text"], pair)["input_ids"])
    for same, max_length in ((row, length + 5), (row, length), ({**row, "keep": []}, length - 3)):
        marked = KIND.encode([same], tokenizer, max_length, training=False)[0]
        assert marked == KIND.encode([plain], tokenizer, max_length, training=False)[0]
    assert KIND.encode([row], tokenizer, length - 1, training=False)[0].length == length - 1


def test_only_rows_that_mark_something_are_cut_around_it(tokenizer: Any) -> None:
    rows = [{"text": FILLER}, _row(FILLER, "lamp", "end"), {"text": FILLER}]
    examples = KIND.encode(rows, tokenizer, 6, training=False)
    assert [tokenizer.decode(example.sequences[0]) for example in examples] == [
        "[CLS] one two three four [SEP]",
        "[CLS] nine ten lamp end [SEP]",
        "[CLS] one two three four [SEP]",
    ]


def test_marks_that_do_not_fit_are_refused_with_the_length_that_would_do(tokenizer: Any) -> None:
    row = {"text": FILLER, "keep": [[0, 13]], "text_pair": "a b c d"}  # 3 marked, 4 of the pair, 3 special
    assert _cut(row, tokenizer, 10)[0] == "[CLS] one two three [SEP] a b c d [SEP]"
    with pytest.raises(DataError, match=r"row 2: what has to stay of it .* is 10 tokens, but max_length is 9. Raise"):
        KIND.encode([{**row, "keep": [[0, 3]]}, row], tokenizer, 9, training=False)


def test_a_second_text_is_cut_around_its_own_marks(tokenizer: Any) -> None:
    row = {"text": FILLER, "keep": [[0, 3]], "text_pair": "a b c lamp d e f", "keep_pair": [[6, 10]]}
    full = len(tokenizer(row["text"], row["text_pair"])["input_ids"])
    assert _cut(row, tokenizer, 7)[0] == "[CLS] one two [SEP] c lamp [SEP]"
    assert _cut(row, tokenizer, 5)[0] == "[CLS] one [SEP] lamp [SEP]"
    assert KIND.encode([row], tokenizer, full - 1, training=False)[0].length == full - 1


class _Slow:
    """A tokenizer without a fast version."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(self, *texts: Any, return_offsets_mapping: bool = False, **options: Any) -> Any:
        assert not return_offsets_mapping
        return self._inner(*texts, **options)


def test_a_fast_tokenizer_is_needed_only_where_something_is_cut(tokenizer: Any) -> None:
    row = _row("one", "lamp", "three")
    assert cut_around(_Slow(tokenizer), row, 5, number=1)[0] == tokenizer(row["text"])["input_ids"]
    with pytest.raises(ConfigError, match="without a fast version, but cutting texts around what `keep` marks needs"):
        cut_around(_Slow(tokenizer), row, 4, number=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_marks_survive_prompts_of_128_in_shifted_mode(
    family: str,
    tiny_backbone: Path,
    byte_tokenizer: Any,
    tiny_model: Callable[..., Any],
    tiny_run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    directory = tmp_path / "backbone"
    if family == "bert":
        shutil.copytree(tiny_backbone, directory)
    else:
        byte_tokenizer.save_pretrained(directory)
    vocab_size = len(AutoTokenizer.from_pretrained(directory))
    # RoBERTa's positions begin behind the one of padding.
    extra = {"bert": {}, "roberta": {"pad_token_id": 2}}[family]
    positions = 168 + (0 if family == "bert" else 3)
    tiny_model(family, vocab_size=vocab_size, max_position_embeddings=positions, **extra).save_pretrained(directory)
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        _row("the lamp " * 30, f"{colour}?", "a box " * 30, text_pair="what is late", label=colour)
        for colour in ("red", "blue") * 4
    ]
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_run(
        tmp_path / "run",
        **{
            "backbone": str(directory),
            "data.path": str(data),
            "data.columns": {"text": "text", "text_pair": "text_pair", "keep": "keep"},
            "data.max_length": 40,
            "prompts.prompt_length": 128,
            "prompts.positions": "shifted",
            "training.max_steps": 1,
        },
    )
    backbone = load_backbone(directory)
    prepared = prepare_task(config, backbone)
    for example, row in zip(prepared.train, rows, strict=True):
        assert example.length == 40
        assert _has(example.sequences[0], f"{row['label']}?", backbone.tokenizer)
        assert _has(example.sequences[0], "what is late", backbone.tokenizer)
    assert train(config).steps == 1
