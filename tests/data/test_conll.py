from __future__ import annotations

import pytest

from ptuning.data.conll import read_conll
from ptuning.errors import DataError


def test_sentences_are_parted_by_blank_lines_and_document_marks() -> None:
    text = "-DOCSTART- -X- O\n\nAnna NNP B-PER\nsleeps VBZ O\n\n\n-DOCSTART- -X- O\nRome NNP B-LOC\n"
    table = read_conll(text.encode(), "a.conll")
    assert table.columns == ("tokens", "tags")
    assert table.records == [
        {"tokens": ["Anna", "sleeps"], "tags": ["B-PER", "O"]},
        {"tokens": ["Rome"], "tags": ["B-LOC"]},
    ]
    assert table.where(0) == "a.conll:3"
    assert table.where(1) == "a.conll:8"


def test_words_may_hold_blanks_and_unusual_line_marks_where_tabs_part_the_columns() -> None:
    table = read_conll("New York\tB-LOC\r\n\u2028x\tO\r\n\r\n".encode(), "a.tsv")
    assert table.records == [{"tokens": ["New York", "\u2028x"], "tags": ["B-LOC", "O"]}]


def test_one_column_has_no_tags() -> None:
    table = read_conll("\ufeffa\nb\n\nc".encode(), "a.txt")
    assert table.columns == ("tokens",)
    assert table.records == [{"tokens": ["a", "b"]}, {"tokens": ["c"]}]


def test_an_empty_file_has_no_sentences() -> None:
    assert read_conll(b"\n\n", "a.conll").records == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a O\nb\n", r"a.conll:2: 1 columns \('b'\), expected 2 filled ones as above it. .* Correct the line"),
        (b"a O\nb X O\n", "a.conll:2: 3 columns"),
        (b"a\tO\nb\t\n", r"a.conll:2: 2 columns \('b\\t'\), expected 2 filled ones"),
        (b"a\tO\n\tO\n", "a.conll:2: 2 columns"),
        (b"a O\n\xe9 O\n", "a.conll:2: byte 0xe9 is not UTF-8"),
    ],
)
def test_other_columns_are_refused_with_their_line(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_conll(data, "a.conll")
