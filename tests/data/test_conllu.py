from __future__ import annotations

import pytest

from ptuning.data.conllu import read_conllu
from ptuning.errors import DataError

HEADS = """\
# newdoc id = d
# sent_id = d-1
# text = The man who left slept.
1-2\tTheman\t_\t_\t_\t_\t_\t_\t_\t_
1\tThe\tthe\tDET\tDT\t_\t2\tdet\t_\t_\t_\t_\t_
2\tman\tman\tNOUN\tNN\t_\t5\tnsubj\t_\t_\t_\tARG0\tARG0
3\twho\twho\tPRON\tWP\t_\t4\tnsubj\t_\t_\t_\tR-ARG0\t_
4\tleft\tleave\tVERB\tVBD\t_\t2\tacl\t_\t_\tleave.01\tV\t_
4.1\tthere\t_\t_\t_\t_\t_\t_\t_\t_\tbe.01\t_\t_
5\tslept\tsleep\tVERB\tVBD\t_\t0\troot\t_\t_\tsleep.01\t_\tV
6\t.\t.\tPUNCT\t.\t_\t5\tpunct\t_\t_

# sent_id = d-2
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_\t_

1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_\tgo.01\t_
2\t,\t,\tPUNCT\t,\t_\t3\tpunct\t_\t_\t_\t_
3\tAnn\tAnn\tPROPN\tNNP\t_\t1\tvocative\t_\t_\t_\tARGM-DIS
4\t!\t!\tPUNCT\t.\t_\t3\tpunct\t_\t_\t_\t_
"""
TOKENS = ["The", "man", "who", "left", "slept", "."]


def test_spans_are_made_of_heads_without_the_predicate_other_arguments_and_punctuation_at_the_edges() -> None:
    table = read_conllu(HEADS.encode(), "a.conllu")
    assert table.columns == ("id", "tokens", "predicate_index", "predicate", "tags")
    assert table.records == [
        {
            "id": "d-1:3",
            "tokens": TOKENS,
            "predicate_index": 3,
            "predicate": "leave.01",
            "tags": ["B-ARG0", "I-ARG0", "B-R-ARG0", "B-V", "O", "O"],
        },
        {
            "id": "d-1:4",
            "tokens": TOKENS,
            "predicate_index": 4,
            "predicate": "sleep.01",
            "tags": ["B-ARG0", "I-ARG0", "I-ARG0", "I-ARG0", "B-V", "O"],
        },
        {
            "tokens": ["Go", ",", "Ann", "!"],
            "predicate_index": 0,
            "predicate": "go.01",
            "tags": ["B-V", "O", "B-ARGM-DIS", "O"],
        },
    ]
    assert [table.where(index) for index in range(3)] == ["a.conllu:8", "a.conllu:10", "a.conllu:16"]


PLUS = """\
# global.columns = ID FORM HEAD UP:PRED UP:ARGHEADS UP:ARGSPANS
1\tShe\t2\t_\t_\t_
2\tsold\t0\tsell.01\tA0:1|A1:4\tA0:1|V:2-2|A1:3-4
3\told\t4\t_\t_\t_
4\tcars\t2\t_\t_\t_
"""


def test_columns_may_be_named_and_spans_given() -> None:
    record = {"tokens": ["She", "sold", "old", "cars"], "predicate_index": 1, "predicate": "sell.01"}
    tags = ["B-A0", "B-V", "B-A1", "I-A1"]
    assert read_conllu(PLUS.encode(), "a.conllup").records == [record | {"tags": tags}]
    heads_alone = PLUS.replace(" UP:ARGSPANS", "").replace("\tA0:1|V:2-2|A1:3-4", "").replace("\t_\n", "\n")
    assert read_conllu(heads_alone.encode(), "a.conllup").records == [record | {"tags": tags}]


def test_a_span_of_a_head_is_one_stretch() -> None:
    # 1 belongs to head 3 too, but 2, the predicate, stands between them.
    text = "# global.columns = ID FORM HEAD UP:PRED UP:ARGHEADS\n1\ta\t3\t_\t_\n2\tb\t3\tb.01\tA1:3\n3\tc\t0\t_\t_\n"
    assert read_conllu(text.encode(), "a").records[0]["tags"] == ["O", "B-V", "B-A1"]


def test_a_predicate_at_an_empty_node_is_passed_over_with_its_column() -> None:
    text = _row(1, 2, "_", "A0", "A1") + _row("1.1", "_", "be.01", "V", "_") + _row(2, 0, "go.01", "_", "V")
    assert [(record["predicate"], record["tags"]) for record in read_conllu(text.encode(), "a").records] == [
        ("go.01", ["B-A1", "B-V"])
    ]


def _row(number: object, head: object, *rest: str) -> str:
    return "\t".join([str(number), "w", "w", "X", "X", "_", str(head), "dep", "_", "_", *rest]) + "\n"


def _plus(columns: str, *rows: str) -> str:
    return f"# global.columns = {columns}\n" + "".join("\t".join(row.split(" ")) + "\n" for row in rows)


SPANS = "ID FORM HEAD UP:PRED UP:ARGSPANS"
HEADED = "ID FORM HEAD UP:PRED UP:ARGHEADS"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            _row(1, 0, "a.01", "V", "_"),
            "f:1: the sentence has 1 predicates, but 2 columns of arguments. Expected one col",
        ),
        (_row(1, 0, "a.01"), "f:1: the sentence has 1 predicates, but 0 columns of arguments"),
        (_row(1, 0, "a.01", "V") + _row(2, 1, "_"), "f:2: 11 columns, expected 12 as the longest line of its sentence"),
        (_row(1, 0) + _row(3, 1), "f:2: the word is number '3', expected 2. Words count from 1 in their sentence"),
        (_row(1, 0, "a.01", "A0"), "f:1: the predicate is its own argument 'A0'. Expected V or _ there; correct the"),
        (_row(1, 0, "a.01", "_") + _row(2, 1, "_", "V"), "f:2: column 12 has V here, but its predicate stands at f:1"),
        (
            _row(1, 3, "a.01", "V") + _row(2, 1, "_", "A0"),
            "f:1: HEAD names word '3'. Expected a number from 1 to 2, the",
        ),
        (
            _row(
                1,
                0,
                "a.01",
                "V",
            )
            + _row(2, 3, "_", "A0")
            + _row(3, 4, "_", "_")
            + _row(4, 3, "_", "_"),
            "f:3: the heads go round in a circle from word 3. Expected a tree with one root",
        ),
        (_row("x", 0), "f:1: the word is number 'x', expected 1"),
        (
            _plus("ID UP:PRED UP:ARGHEADS UP:ARGSPANS", "1 _ _ _"),
            "f:2: the columns are ID, UP:PRED, .* without FORM. Ex",
        ),
        (
            _plus("ID FORM UP:PRED", "1 a _"),
            "f:2: the columns are ID, FORM, UP:PRED. Expected UP:PRED, and UP:ARGSPANS",
        ),
        (
            _plus("ID FORM", "1 a"),
            "f:2: the columns are ID, FORM. Expected UP:PRED, and UP:ARGSPANS or UP:ARGHEADS; ad",
        ),
        (
            _plus(SPANS, "1 a 0 a.01"),
            "f:2: 4 columns, expected 5 as # global.columns names. Columns are parted by tabs",
        ),
        (
            _plus(SPANS, "1 a 0 a.01 A0:2-3"),
            "f:2: UP:ARGSPANS names word '2'. Expected a number from 1 to 1, the words",
        ),
        (
            _plus(SPANS, "1 a 0 a.01 A0"),
            "f:2: UP:ARGSPANS has 'A0'. Expected label and place, such as A1:4-6, with | b",
        ),
        (_plus(SPANS, "1 a 0 a.01 A0:2-1", "2 b 1 _ _"), "f:2: UP:ARGSPANS has A0:2-1, which ends before it begins"),
        (_plus(SPANS, "1 a 0 a.01 A0:1-2", "2 b 1 _ _"), "f:2: A0 covers word 1, which V covers too. Expected spans"),
        (_plus(SPANS, "1 a 0 a.01 A0:2|A1:2", "2 b 1 _ _"), "f:2: A1 covers word 2, which A0 covers too"),
        (_plus(HEADED, "1 a 0 a.01 A0:2|A1:2", "2 b 1 _ _"), "f:2: word 2 is A0 and A1 of one predicate. Expected one"),
        (
            _plus(HEADED, "1 a 0 a.01 A0:1"),
            "f:2: word 1 is V and A0 of one predicate. Expected one label; correct UP:AR",
        ),
        (
            _plus("ID FORM UP:PRED UP:ARGHEADS", "1 a a.01 A0:2", "2 b _ _"),
            "f:2: there is neither UP:ARGSPANS nor HEAD. Expected the spans of arguments, or the tree",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("|", r"\|")):
        read_conllu(text.encode(), "f")
