from __future__ import annotations

import pytest

from ptuning.data.word_lines import bracket_tags, check_widths, sentences_of
from ptuning.errors import DataError

PLACES = ["f:1", "f:2", "f:3", "f:4"]


def test_sentences_are_parted_by_blank_lines_and_by_lines_that_are_no_words() -> None:
    text = "\ufeff#begin x\na  1\nb\t2\r\n\n \t\n#end\nc\u2028d 3 "
    found = list(sentences_of(text.encode(), "f", lambda line: line.startswith("#")))
    assert [[(line.place, line.number, line.cells) for line in sentence] for sentence in found] == [
        [("f:2", 2, ["a", "1"]), ("f:3", 3, ["b", "2"])],
        [("f:7", 7, ["c\u2028d", "3"])],
    ]
    assert list(sentences_of(b"\n\n", "f")) == []


def test_a_line_of_another_width_is_named() -> None:
    (sentence,) = sentences_of(b"a 1\nb\n", "f")
    with pytest.raises(
        DataError, match=r"f:2: 1 columns, expected 2 as in the first line of its sentence \(f:1\). Cor"
    ):
        check_widths(sentence, 1, "word")
    with pytest.raises(DataError, match="f:1: 2 columns, expected at least 3: word, tag, place. Correct the line"):
        check_widths(sentence, 3, "word, tag, place")


@pytest.mark.parametrize(
    ("cells", "tags"),
    [
        (["(A0*", "*", "*)", "*"], ["B-A0", "I-A0", "I-A0", "O"]),
        (["(A0*)", "(V*)", "(A0*", "*)"], ["B-A0", "B-V", "B-A0", "I-A0"]),
        (["(GPE)", "*", "(R-A0*)", "(C-A1*)"], ["B-GPE", "O", "B-R-A0", "B-C-A1"]),
        (["*", "*", "*", "*"], ["O", "O", "O", "O"]),
    ],
)
def test_brackets_become_bio_tags(cells: list[str], tags: list[str]) -> None:
    assert bracket_tags(cells, PLACES) == tags


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            ["(A0*", "(A1*)", "*)", "*"],
            r"f:2: '\(A1\*\)' opens 'A1' inside 'A0', which is open since f:1. Expected spans",
        ),
        (["(A0(A1*", "*)", "*)", "*"], r"f:1: '\(A0\(A1\*' opens 'A1' inside 'A0'. Expected spans that do not overlap"),
        (["*", "*)", "*", "*"], r"f:2: '\*\)' closes a bracket that is not open. Expected one opened before it"),
        (["(A0*", "*))", "*", "*"], r"f:2: '\*\)\)' closes a bracket that is not open"),
        (["*", "(A0*", "*", "*"], r"f:2: the bracket of 'A0' is never closed. Expected \*\) at the last word"),
        (
            ["A0*)", "*", "*", "*"],
            r"f:1: 'A0\*\)' is no cell of brackets. Expected \*, \(A0\*, \*\) or \(A0\*\); correct",
        ),
        (["(*)", "*", "*", "*"], r"f:1: '\(\*\)' is no cell of brackets"),
        (["(A0", "*)", "*", "*"], r"f:1: '\(A0' is no cell of brackets"),
        (["-", "*", "*", "*"], r"f:1: '-' is no cell of brackets"),
        (["(A0*)x", "*", "*", "*"], r"f:1: '\(A0\*\)x' is no cell of brackets"),
        ([")", "*", "*", "*"], r"f:1: '\)' is no cell of brackets"),
    ],
)
def test_brackets_that_do_not_fit_are_refused_with_their_line(cells: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        bracket_tags(cells, PLACES)
