from __future__ import annotations

from pathlib import Path

import pytest

from ptuning.data.formats import read_table
from ptuning.data.glue import read_tsv
from ptuning.errors import DataError


def test_quotation_marks_are_text_and_empty_cells_are_none() -> None:
    text = '\ufeffQuality\t#1 ID\t#1 String\r\n1\t7\t"Never closed\r\n0\t\tit\'s "so" \u2028\\t\r\n\r\n'
    table = read_tsv(text.encode(), "a.tsv")
    assert table.columns == ("Quality", "#1 ID", "#1 String")
    assert table.records == [
        {"Quality": "1", "#1 ID": "7", "#1 String": '"Never closed'},
        {"Quality": "0", "#1 ID": None, "#1 String": 'it\'s "so" \u2028\\t'},
    ]
    assert (table.where(1), table.notes) == ("a.tsv:3", ())


def test_cola_without_header_gets_its_columns_and_its_test_file_keeps_its_own() -> None:
    table = read_tsv(b"gj04\t1\t\tThey left.\ngj04\t0\t*\tThem left.\n", "train.tsv")
    assert table.columns == ("source", "label", "annotation", "sentence")
    assert table.records == [
        {"source": "gj04", "label": "1", "annotation": None, "sentence": "They left."},
        {"source": "gj04", "label": "0", "annotation": "*", "sentence": "Them left."},
    ]
    assert table.where(0) == "train.tsv:1"
    assert read_tsv(b"index\tsentence\n0\tThey left.\n", "test.tsv").records == [
        {"index": "0", "sentence": "They left."}
    ]


def test_one_odd_line_in_a_hundred_is_left_out_with_a_note() -> None:
    lines = ["a\tb", *["x\ty"] * 199, "x"]
    table = read_tsv("\n".join(lines).encode(), "a.tsv")
    assert len(table.records) == 199
    assert table.notes == ("a.tsv: 1 line has another number of cells than 2 (the first: line 201); left out.",)
    lines[1:3] = ["x", "x\ty\tz"]
    with pytest.raises(
        DataError, match=r"a.tsv:2: 1 cells, expected 2 \(a, b\); 3 of 200 lines have another number. Put"
    ):
        read_tsv("\n".join(lines).encode(), "a.tsv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a,b\n1,2\n",
            "a.tsv:1: the header is the one cell 'a,b'. Expected tabs between the columns. Save the file again",
        ),
        ("a\ta\n", "a.tsv:1: the column 'a' stands twice in the header. Expected a first line with one name a column"),
        ("\n0\tgood\n", "a.tsv:2: '0' is no column name in the header. .* Add or correct it"),
        ("a\t\n", "a.tsv:1: '' is no column name in the header"),
    ],
)
def test_files_without_a_header_are_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_tsv(text.encode(), "a.tsv")


def test_tab_separated_files_are_read_for_classification_and_regression(tmp_path: Path) -> None:
    for name in ("train.tsv", "msr_paraphrase_train.txt"):
        (tmp_path / name).write_text("sentence\tlabel\ngood\t1\n")
        for kind in ("classification", "regression"):
            assert read_table(tmp_path / name, kind).records == [{"sentence": "good", "label": "1"}]
    (tmp_path / "empty.tsv").write_text("\n")
    with pytest.raises(DataError, match="empty.tsv has no rows"):
        read_table(tmp_path / "empty.tsv", "classification")
