from __future__ import annotations

import pytest

from ptuning.data.srl_lines import read_srl_lines
from ptuning.errors import DataError


def test_a_line_is_a_predicate() -> None:
    table = read_srl_lines(b"1 He left . ||| B-A0 B-V O\n\n0 Go ! |||\n", "a.txt")
    assert table.columns == ("tokens", "predicate_index", "tags")
    assert table.records == [
        {"tokens": ["He", "left", "."], "predicate_index": 1, "tags": ["B-A0", "B-V", "O"]},
        {"tokens": ["Go", "!"], "predicate_index": 0},
    ]
    assert table.where(1) == "a.txt:3"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "3 He left . ||| B-A0 B-V O",
            r"a:1: the predicate is word 3 \(from 0\), but there are 3 words. Expected the place",
        ),
        ("He left ||| B-A0 B-V", "a:1: the line begins with 'He', which is no number. Expected the place of the pred"),
        ("-1 He ||| B-A0", "a:1: the line begins with '-1', which is no number"),
        ("||| B-A0", "a:1: the line begins with '', which is no number"),
        ("1 He left ||| B-A0", r"a:1: 2 words but 1 tags. Expected the place of the predicate .* correct the line"),
        ("1 He left", r"a:1: 0 times \|\|\|, expected once"),
        ("1 He left ||| O O ||| x", r"a:1: 2 times \|\|\|, expected once"),
    ],
)
def test_lines_of_another_form_are_refused(line: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_srl_lines(line.encode(), "a")
