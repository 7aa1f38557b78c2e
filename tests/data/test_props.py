from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ptuning.data.formats import read_table
from ptuning.data.props import read_props, read_props_directory
from ptuning.errors import DataError

WORDS = "The\ncat\nthat\nslept\nwoke\nup\n.\n\nYes\n.\n\n"
PROPS = """\
-      (A0*    (A1*
-      *)      *
-      (R-A0*) *
sleep  (V*)    *)
wake   *       (V*)
-      *       (C-V*)
-      *       *

-
-

"""
TOKENS = ["The", "cat", "that", "slept", "woke", "up", "."]
SLEEP = ["B-A0", "I-A0", "B-R-A0", "B-V", "O", "O", "O"]
WAKE = ["B-A1", "I-A1", "I-A1", "I-A1", "B-V", "B-C-V", "O"]
RECORDS = [
    {"tokens": TOKENS, "predicate_index": 3, "predicate": "sleep", "tags": SLEEP},
    {"tokens": TOKENS, "predicate_index": 4, "predicate": "wake", "tags": WAKE},
]


def _merged(between: str = "") -> str:
    pairs = zip(WORDS.split("\n"), PROPS.split("\n"), strict=True)
    return "\n".join(f"{word} {between} {props}" if word else "" for word, props in pairs)


def test_words_and_brackets_in_one_file_give_a_record_a_predicate() -> None:
    table = read_props(_merged().encode(), "a.txt")
    assert table.columns == ("tokens", "predicate_index", "predicate", "tags")
    assert table.records == RECORDS
    assert [table.where(0), table.where(1)] == ["a.txt:4", "a.txt:5"]


def test_columns_between_the_words_and_the_predicates_are_passed_over() -> None:
    assert read_props(_merged("NN (S* (NE*) -").encode(), "a.txt").records == RECORDS


def test_a_column_of_senses_before_the_lemmas_makes_rolesets() -> None:
    text = "He PRP (S* - - (A0*)\nsold VBD *) 01 sell (V*)\n"
    assert read_props(text.encode(), "a.txt").records == [
        {"tokens": ["He", "sold"], "predicate_index": 1, "predicate": "sell.01", "tags": ["B-A0", "B-V"]}
    ]


def test_predicates_without_any_brackets_are_rows_without_tags() -> None:
    assert read_props(b"He -\nsold sell\n", "a.txt").records == [
        {"tokens": ["He", "sold"], "predicate_index": 1, "predicate": "sell"}
    ]


def test_released_directories_pair_words_and_props_by_name_packed_or_not(tmp_path: Path) -> None:
    for part in ("words", "props"):
        (tmp_path / part).mkdir()
    (tmp_path / "words" / "train.03.words").write_text(WORDS)
    (tmp_path / "props" / "train.03.props.gz").write_bytes(gzip.compress(PROPS.encode()))
    (tmp_path / "words" / "train.02.words.gz").write_bytes(gzip.compress(b"He\nsold\n"))
    (tmp_path / "props" / "train.02.props").write_text("- (A0*)\nsell (V*)\n")
    (tmp_path / "words" / ".hidden").write_text("")
    table = read_table(tmp_path, "semantic_role_labeling")
    first = {"tokens": ["He", "sold"], "predicate_index": 1, "predicate": "sell", "tags": ["B-A0", "B-V"]}
    assert table.records == [first, *RECORDS]
    assert table.where(0) == f"{tmp_path / 'props' / 'train.02.props'}:2"
    assert table.where(2) == f"{tmp_path / 'props' / 'train.03.props.gz'}:5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a - (A0*)\nb do (V*)\nc - *)\n", r"f:3: '\*\)' closes a bracket that is not open"),
        ("a - (A0*\nb do (V*)\n", r"f:2: '\(V\*\)' opens 'V' inside 'A0', which is open since f:1"),
        ("a - *\nb do (V*\n", "f:2: the bracket of 'V' is never closed"),
        ("a - (A0*)\nb do\n", r"f:2: 2 columns, expected 3 as in the first line of its sentence \(f:1\)"),
        ("a\nb\n", "f:1: 1 columns, expected at least 2: the word, the predicates .lemma or -., and the brackets of"),
        ("a *\nb (V*)\n", "f:1: every column after the word has brackets, expected one with the predicates"),
        (
            "a - (A0*) *\nb do (V*) *\n",
            r"f:1: the sentence has 1 predicates \(column 2\), but 2 columns of brackets. Expected one column a",
        ),
        (
            "a - (A0*)\nb do (V*)\n\nc go\n",
            r"f:4: the sentence has 1 predicates \(column 2\), but 0 columns of brackets",
        ),
        (
            "a go (A0*) (V*)\nb do (V*) *\n",
            "f:1: the predicate 'go' is number 1 of its sentence, but column 1 of brackets has V at f:2. Expected the",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_props(text.encode(), "f")


@pytest.mark.parametrize(
    ("words", "props", "message"),
    [
        (
            {"a.words": "x\n"},
            {"b.props": "-\n"},
            r"words.a.words has no partner in .*props. Expected a file of the same",
        ),
        ({}, {"b.props": "-\n"}, "props.b.props has no partner in .*words. Expected .* but for 'words'; add it or"),
        ({"a.words": "x\n"}, {"a.props": "-\n-\n"}, "a.props:1: the sentence has 2 lines, but 1 words at .*a.words:1"),
        ({"a.words": "x\n"}, {"a.props": "-\n\n-\n"}, "a.props has 2 sentences, but .*a.words has 1. Expected as many"),
        ({"a.words": "x\ny\n"}, {"a.props": "- *\n-\n"}, "a.props:2: 2 columns, expected 3 as in the first line"),
    ],
)
def test_directories_whose_files_do_not_fit_are_refused(
    tmp_path: Path, words: dict[str, str], props: dict[str, str], message: str
) -> None:
    for part, files in (("words", words), ("props", props)):
        (tmp_path / part).mkdir()
        for name, text in files.items():
            (tmp_path / part / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_props_directory(tmp_path)
