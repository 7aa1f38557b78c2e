from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ptuning.backbones.embedded import minilm_directory
from ptuning.data.batching import Example
from ptuning.tasks import TaskKind, encoded_cache, get_kind, get_task
from ptuning.tasks.classification import Classification
from ptuning.tasks.encoded_cache import encode_cached
from ptuning.tasks.loading import load_task_data
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.semantic_role_labeling import SemanticRoleLabeling
from ptuning.training.run import train

KINDS = [
    "classification",
    "cloze",
    "multiple_choice",
    "question_answering",
    "regression",
    "semantic_role_labeling",
    "token_classification",
]
ROWS = [{"text": f"the blue lamp number {number}", "label": "yes" if number % 3 else "no"} for number in range(30)]
KIND = Classification(("no", "yes"))


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """What an empty cache, that takes the smallest sets, has come to hold."""
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoded_cache, "FEWEST_CHARACTERS", 0)
    return lambda: sorted((tmp_path / "cache" / "encoded").glob("*"))


@pytest.fixture
def no_tokenizing(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[TaskKind]], None]:
    """Makes a kind fail where it tokenizes."""

    def encode(*args: Any, **options: Any) -> list[Example]:
        raise AssertionError("tokenized again")

    return lambda kind: monkeypatch.setattr(kind, "encode", encode)


def _encode(tokenizer: Any, rows: Any = ROWS, kind: TaskKind = KIND, **changes: Any) -> list[Example]:
    return encode_cached(kind, rows, tokenizer, changes.get("max_length", 32), training=changes.get("training", True))


@pytest.mark.parametrize("max_length", [24, 48])
@pytest.mark.parametrize("name", KINDS)
def test_examples_of_every_kind_are_the_same_from_the_cache(
    name: str,
    max_length: int,
    tokenizer: Any,
    byte_tokenizer: Any,
    tiny_run: Callable[..., Any],
    tmp_path: Path,
    entries: Callable[[], list[Path]],
    no_tokenizing: Callable[[type[TaskKind]], None],
) -> None:
    config = tiny_run(tmp_path / "run", name)
    data = load_task_data(config, get_task(name))
    kind = get_kind(name).from_data(data, config.data)
    used = [tokenizer] if name in ("cloze", "question_answering") else [tokenizer, byte_tokenizer]
    sets = [
        (rows, own, training)
        for rows, training in ((data.train, True), (data.validation, False), ([], False))
        for own in used
        if rows is not None
    ]
    length = max_length if used == [tokenizer] else 4 * max_length  # a byte is a token
    plain = [kind.encode(rows, own, length, training=training) for rows, own, training in sets]

    def cached() -> list[list[Example]]:
        return [encode_cached(kind, rows, own, length, training=training) for rows, own, training in sets]

    assert repr(cached()) == repr(plain)
    assert len(entries()) == len(sets)
    no_tokenizing(type(kind))
    assert cached() == plain
    assert repr(cached()) == repr(plain)


def test_every_input_that_decides_the_examples_has_its_own_entry(
    tokenizer: Any, byte_tokenizer: Any, entries: Callable[[], list[Path]]
) -> None:
    longer = AutoTokenizer.from_pretrained(minilm_directory())
    longer.add_tokens(["lamp number"])
    left = AutoTokenizer.from_pretrained(minilm_directory(), truncation_side="left")
    ids = AutoTokenizer.from_pretrained(minilm_directory(), model_input_names=["input_ids", "attention_mask"])
    runs: list[tuple[Any, dict[str, Any]]] = [
        (tokenizer, {}),
        (tokenizer, {"max_length": 31}),
        (tokenizer, {"training": False}),
        (tokenizer, {"rows": ROWS[:-1]}),
        (tokenizer, {"rows": ROWS[::-1]}),
        (tokenizer, {"rows": [{**row, "text_pair": "a"} for row in ROWS]}),
        (tokenizer, {"rows": [{**row, "keep": [[0, 3]]} for row in ROWS]}),
        (tokenizer, {"rows": [{"text": row["text"]} for row in ROWS], "training": False}),
        (tokenizer, {"kind": Classification(("yes", "no"))}),
        (tokenizer, {"kind": Classification(("no", "yes", "perhaps"))}),
        (tokenizer, {"kind": get_kind("token_classification")(("O", "B-X", "I-X")), "training": False}),  # type: ignore[call-arg]
        (byte_tokenizer, {"max_length": 99}),
        (longer, {}),
        (left, {}),
        (ids, {}),
    ]
    for number, (own, changes) in enumerate(runs, 1):
        first = _encode(own, **changes)
        assert len(entries()) == number, changes
        assert _encode(own, **changes) == first
        assert len(entries()) == number
    left_cut, right_cut = (_encode(own, max_length=6) for own in (left, tokenizer))
    assert left_cut != right_cut


def test_options_of_a_kind_decide_too(tokenizer: Any, entries: Callable[[], list[Path]]) -> None:
    context = "the river runs slowly past the old mill " * 9
    rows = [{"question": "where", "context": context, "answers": {"text": ["mill"], "answer_start": [35]}}]
    assert context[35:39] == "mill"
    for stride in (0, 8):
        _encode(tokenizer, rows, QuestionAnswering(doc_stride=stride))
    said = [{"tokens": ["it", "is", "late"], "predicate_index": 1, "tags": ["B-A1", "B-V", "B-A2"]}]
    for way in ("marked", "appended"):
        _encode(tokenizer, said, SemanticRoleLabeling(("O", "B-A1", "B-A2", "B-V"), predicate_input=way))  # type: ignore[arg-type]
    assert len(entries()) == 4


def test_how_the_last_call_cut_and_padded_makes_no_difference(
    tokenizer: Any, entries: Callable[[], list[Path]], no_tokenizing: Callable[[type[TaskKind]], None]
) -> None:
    first = _encode(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=7, padding="max_length")
    no_tokenizing(Classification)
    assert _encode(tokenizer) == first


def test_other_code_or_libraries_tokenize_again(
    tokenizer: Any, entries: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _encode(tokenizer)
    monkeypatch.setattr(encoded_cache, "version", lambda name: "99.0")
    encoded_cache._code.cache_clear()
    _encode(tokenizer)
    encoded_cache._code.cache_clear()
    assert len(entries()) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "another"])
def test_a_damaged_entry_is_made_again(damage: str, tokenizer: Any, entries: Callable[[], list[Path]]) -> None:
    examples = _encode(tokenizer)
    (path,) = entries()
    whole = path.read_bytes()
    if damage == "another":
        _encode(tokenizer, ROWS[::-1])
        other = next(entry for entry in entries() if entry != path)
        shutil.copy(other, path)
    else:
        middle = len(whole) - 20
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": whole[:-9], "flipped": flipped, "text": b"not a tensor"}[damage])
    assert path.read_bytes() != whole
    assert _encode(tokenizer) == examples
    assert _encode(tokenizer) == examples
    assert path.read_bytes() == whole


def test_every_flipped_byte_is_found(tokenizer: Any, entries: Callable[[], list[Path]]) -> None:
    examples = _encode(tokenizer, ROWS[:3])
    (path,) = entries()
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert _encode(tokenizer, ROWS[:3]) == examples, place


def test_warnings_are_given_again(
    tokenizer: Any,
    entries: Callable[[], list[Path]],
    caplog: pytest.LogCaptureFixture,
    no_tokenizing: Callable[[type[TaskKind]], None],
) -> None:
    kind = get_kind("token_classification")(("O", "B-X", "I-X"))  # type: ignore[call-arg]
    rows = [{"tokens": ["lamp"] * 60, "tags": ["O"] * 60}]
    _encode(tokenizer, rows, kind)
    first = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert len(first) == 1 and "lie beyond max_length 32" in first[0][2]
    caplog.clear()
    no_tokenizing(type(kind))
    _encode(tokenizer, rows, kind)
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == first


def test_nothing_is_kept_of_rows_whose_warnings_nobody_hears(
    tokenizer: Any, entries: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ptuning.tasks"), "level", logging.ERROR)
    logging.getLogger("ptuning.tasks").manager._clear_cache()  # type: ignore[attr-defined]
    _encode(tokenizer)
    assert not entries()
    monkeypatch.undo()
    logging.getLogger("ptuning.tasks").manager._clear_cache()  # type: ignore[attr-defined]


def test_nothing_is_kept_where_it_is_off_or_small_or_unknown(
    tokenizer: Any, entries: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        is_fast = False

        def __call__(self, *args: Any, **options: Any) -> Any:
            return tokenizer(*args, **options)

        def num_special_tokens_to_add(self, pair: bool) -> int:
            return 2

    plain = KIND.encode(ROWS, tokenizer, 32, training=True)
    assert _encode(Slow()) == plain
    assert _encode(tokenizer, [{**row, "group": b"1"} for row in ROWS]) == plain
    monkeypatch.setattr(encoded_cache, "FEWEST_CHARACTERS", len(json.dumps(ROWS)) + 1)
    assert _encode(tokenizer) == plain
    monkeypatch.setattr(encoded_cache, "FEWEST_CHARACTERS", len(json.dumps(ROWS)))
    with monkeypatch.context() as patch:
        patch.setenv("PTUNING_CACHE", "off")
        assert _encode(tokenizer) == plain
    assert not entries()
    assert _encode(tokenizer) == plain
    assert len(entries()) == 1


def test_a_cache_that_cannot_be_written_to_is_no_obstacle(
    tokenizer: Any, tmp_path: Path, entries: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "file"))
    assert _encode(tokenizer) == KIND.encode(ROWS, tokenizer, 32, training=True)


def test_entries_that_were_not_used_for_the_longest_time_make_room(
    tokenizer: Any, entries: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number in range(4):
        _encode(tokenizer, ROWS[number:])
        (path,) = set(entries()) - set(paths)
        os.utime(path, (time.time() - 100 + number,) * 2)
        paths.append(path)
    _encode(tokenizer, ROWS)  # the first is used, so the second has not been for longest
    size = sum(path.stat().st_size for path in paths)
    monkeypatch.setattr(encoded_cache, "MOST_BYTES", size)
    _encode(tokenizer, ROWS[4:])
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert sum(path.stat().st_size for path in entries()) <= size
    monkeypatch.setattr(encoded_cache, "MOST_BYTES", 10)
    assert _encode(tokenizer, ROWS[5:]) == KIND.encode(ROWS[5:], tokenizer, 32, training=True)
    assert len(entries()) == 4


def test_what_a_dead_process_left_is_removed_after_an_hour(tokenizer: Any, entries: Callable[[], list[Path]]) -> None:
    _encode(tokenizer)
    directory = entries()[0].parent
    old, new = (directory / f".{name}.safetensors.new-host-1" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    _encode(tokenizer, ROWS[1:])
    assert new.exists() and not old.exists()


def test_a_second_run_does_not_tokenize_and_learns_the_same(
    tiny_run: Callable[..., Any],
    tmp_path: Path,
    entries: Callable[[], list[Path]],
    no_tokenizing: Callable[[type[TaskKind]], None],
) -> None:
    first = train(tiny_run(tmp_path / "first", **{"training.epochs": 1}))
    assert len(entries()) == 2
    no_tokenizing(Classification)
    second = train(tiny_run(tmp_path / "second", **{"training.epochs": 1}))
    assert replace(second, directory=first.directory, seconds=first.seconds) == first
    one, other = (result.directory / "prompt" / "prompts.safetensors" for result in (first, second))
    assert one.read_bytes() == other.read_bytes()
