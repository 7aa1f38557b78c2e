from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ptuning.data.formats import read_table
from ptuning.data.ontonotes import read_ontonotes
from ptuning.errors import DataError

SRL = "semantic_role_labeling"
FILE = """\
#begin document (bc/x_00); part 000
bc/x_00  0  0  Ann    NNP  (TOP(S(NP*)  -     -   -  Bob  (PERSON)   (ARG0*)  (ARG0*)   (0)
bc/x_00  0  1  came   VBD  (VP*         come  01  1  Bob  *          (V*)     *         -
bc/x_00  0  2  in     IN   (PP*         -     -   -  Bob  (DATE*     (ARGM*   *         -
bc/x_00  0  3  May    NNP  (NP*)))      -     -   -  Bob  *)         *)       *         -
bc/x_00  0  4  saying VBG  (S*))        say   -   -  Bob  *          *        (V*)      (1|(2)

bc/x_00  0  0  Yes    UH   (TOP*)       -     -   -  Bob  *          -
#end document
#begin document (bc/x_00); part 001
bc/x_00  1  0  Go     VB   (TOP*)       -     -   -  -    *          (V*)     -
#end document
"""
TOKENS = ["Ann", "came", "in", "May", "saying"]


def test_roles_come_with_rolesets_and_ids() -> None:
    table = read_ontonotes(FILE.encode(), "a.v4_gold_conll", SRL)
    assert table.columns == ("id", "tokens", "predicate_index", "predicate", "tags")
    assert table.records == [
        {
            "id": "bc/x_00/0/0:1",
            "tokens": TOKENS,
            "predicate_index": 1,
            "predicate": "come.01",
            "tags": ["B-ARG0", "B-V", "B-ARGM", "I-ARGM", "O"],
        },
        {
            "id": "bc/x_00/0/0:4",
            "tokens": TOKENS,
            "predicate_index": 4,
            "predicate": "say",
            "tags": ["B-ARG0", "O", "O", "O", "B-V"],
        },
        {"id": "bc/x_00/1/0:0", "tokens": ["Go"], "predicate_index": 0, "tags": ["B-V"]},
    ]
    assert [table.where(index) for index in range(3)] == [f"a.v4_gold_conll:{line}" for line in (3, 6, 11)]
    assert table.notes == ()


def test_named_entities_come_as_tags_of_every_sentence() -> None:
    table = read_ontonotes(FILE.encode(), "a.v4_gold_conll", "token_classification")
    assert table.columns == ("tokens", "tags")
    assert table.records == [
        {"tokens": TOKENS, "tags": ["B-PERSON", "O", "B-DATE", "I-DATE", "O"]},
        {"tokens": ["Yes"], "tags": ["O"]},
        {"tokens": ["Go"], "tags": ["O"]},
    ]
    assert table.where(1) == "a.v4_gold_conll:8"


def test_files_of_the_propbank_release_have_rolesets_and_no_entities() -> None:
    text = "x/y 3 0 A NN (TOP* - - (ARG0*)\nx/y 3 1 b VB *) bide bide.01 (V*)\n"
    assert read_ontonotes(text.encode(), "x/y.gold_conll.gz", SRL).records == [
        {
            "id": "x/y/3:1",
            "tokens": ["A", "b"],
            "predicate_index": 1,
            "predicate": "bide.01",
            "tags": ["B-ARG0", "B-V"],
        }
    ]
    with pytest.raises(
        DataError, match="y.gold_conll:1: files of the PropBank release have no named entities. Expected"
    ):
        read_ontonotes(text.encode(), "y.gold_conll", "token_classification")


def test_columns_without_v_belong_to_the_framesets_in_turn_or_are_left_out_with_a_note() -> None:
    text = "d 0 0 A NN * a 01 - - * (ARG0*) -\nd 0 1 b VB * {} * * -\n"
    in_turn = read_ontonotes(text.format("- - - -").encode(), "a_gold_conll", SRL)
    assert in_turn.records == [
        {"id": "d/0/0:0", "tokens": ["A", "b"], "predicate_index": 0, "predicate": "a.01", "tags": ["B-ARG0", "O"]}
    ]
    left_out = read_ontonotes(text.format("b 02 - -").encode(), "a_gold_conll", SRL)
    assert left_out.records == []
    assert left_out.notes == (
        "a_gold_conll: 1 columns of brackets without V were left out, the first in the sentence at a_gold_conll:1.",
    )


def test_directories_are_searched_to_the_bottom_and_read_in_order(tmp_path: Path) -> None:
    deep = tmp_path / "data" / "english" / "annotations"
    deep.mkdir(parents=True)
    (deep / "b.v4_gold_conll").write_text("d2 0 0 Go VB * - - - - * (V*) -\n")
    (deep / "a.v4_gold_conll.gz").write_bytes(gzip.compress(b"d1 0 0 Run VB * - - - - * (V*) -\n"))
    (deep / "a.v4_auto_conll").write_text("not read")
    table = read_table(tmp_path, SRL)
    assert [record["tokens"] for record in table.records] == [["Run"], ["Go"]]
    assert table.where(1) == f"{deep / 'b.v4_gold_conll'}:1"
    (tmp_path / "data" / "chinese").mkdir()
    (tmp_path / "data" / "chinese" / "c.v4_gold_conll").write_text("d3 0 0 Go VB * - - - - * (V*) -\n")
    with pytest.raises(
        DataError, match="has files of 2 languages: chinese, english. Expected one; move the others away"
    ):
        read_table(tmp_path, SRL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("d 0 0 A NN * - - - - *\n", "f:1: 11 columns, expected at least 12: document, part, word number, word, part"),
        ("d 0 0 A NN * - - - - * -\nd 0 1 b NN * - - - - * * -\n", "f:2: 13 columns, expected 12 as in the first line"),
        ("d 0 0 [WORD] NN * - - - - * -\n", r"f:1: the word is \[WORD\], expected a word: the file is a skeleton. Run"),
        ("d 0 0 A NN * - - - - * (V* -\n", "f:1: the bracket of 'V' is never closed"),
        ("d 0 0 A NN * - - - - * (A(B*)) -\n", r"f:1: '\(A\(B\*\)\)' opens 'B' inside 'A'. Expected spans that do not"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_ontonotes(text.encode(), "f", SRL)
